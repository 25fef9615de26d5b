// Per-head RMSNorm (optional), rotary embedding and KV store in one pass over the fused projection's output.
//
// Macros: SCALAR (__nv_bfloat16 | __half), HEAD_DIM (64 | 128 | 256), HAS_NORM (0 | 1).
// A head is HEAD_DIM / 8 lanes of 16 bytes; a warp takes kHeadsPerLane times 32 / lanes-a-head heads of one token, so
// that the row of cosines and sines is read once per warp and kHeadsPerLane loads are in flight in each lane.
#include <nanopd/math.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>

using namespace nanopd;

constexpr int kLanesPerHead = HEAD_DIM / 8;
constexpr int kHeadsAtOnce = 32 / kLanesPerHead;
constexpr int kHeadsPerLane = 4;
constexpr int kHeadsPerWarp = kHeadsAtOnce * kHeadsPerLane;
static_assert(HEAD_DIM == 64 || HEAD_DIM == 128 || HEAD_DIM == 256, "a head is 8, 16 or 32 lanes of 16 bytes");

struct Params {
    const SCALAR* qkv;            // [T, (Hq + 2 Hk) * D], rows qkv_row_stride apart
    const void* positions;        // [T] int64 or int32
    const float* cos_sin;         // [max_position, rotary_dim]: cosines, then sines
    const SCALAR* q_weight;       // [D], used if HAS_NORM
    const SCALAR* k_weight;       // [D]
    const long long* slot_mapping;  // [T] block * block_size + offset, negative: store nothing
    SCALAR* q_out;                // [T, Hq, D], rows q_row_stride apart; may be the q part of qkv itself
    SCALAR* kv;                   // [num_blocks, 2, Hk, block_size, D], blocks kv_block_stride apart
    long long qkv_row_stride, q_row_stride, kv_block_stride;
    int num_tokens, num_q_heads, num_kv_heads, block_size, rotary_dim, positions_are_64_bit;
    float eps;
    int unused;
};

__device__ __forceinline__ uint4* vector(SCALAR* p) { return reinterpret_cast<uint4*>(p); }
__device__ __forceinline__ const uint4* vector(const SCALAR* p) { return reinterpret_cast<const uint4*>(p); }

__device__ __forceinline__ void load8(const float* source, float (&values)[8]) {
    const float4 low = __ldg(reinterpret_cast<const float4*>(source));
    const float4 high = __ldg(reinterpret_cast<const float4*>(source) + 1);
    values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
    values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

extern "C" __global__ void __launch_bounds__(128) rope_store_kernel(const Params p) {
    const int num_heads = p.num_q_heads + 2 * p.num_kv_heads;
    const int warps_per_token = (num_heads + kHeadsPerWarp - 1) / kHeadsPerWarp;
    const int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const int token = warp / warps_per_token;
    const int lane = threadIdx.x % 32, chunk = lane % kLanesPerHead;
    const int first_head = (warp % warps_per_token) * kHeadsPerWarp + lane / kLanesPerHead;
    let_successor_start();  // paged_decode, whose KV of earlier steps comes while the projection before this ends
    wait_for_predecessor();
    if (token >= p.num_tokens) return;

    uint4 raw[kHeadsPerLane];
    const SCALAR* row = p.qkv + token * p.qkv_row_stride;
#pragma unroll
    for (int i = 0; i < kHeadsPerLane; ++i) {
        const int head = first_head + i * kHeadsAtOnce;
        raw[i] = head < num_heads ? vector(row + head * HEAD_DIM)[chunk] : uint4{};
    }
    const long long slot = p.slot_mapping[token];
    const long long position = p.positions_are_64_bit ? static_cast<const long long*>(p.positions)[token]
                                                      : static_cast<const int*>(p.positions)[token];
    // Neox style: element j of the first half turns with element j of the second half, that is, lane with lane.
    const int half_lanes = p.rotary_dim / 16;
    const bool rotates = chunk < 2 * half_lanes, is_second_half = chunk >= half_lanes;
    const int partner = !rotates ? lane : is_second_half ? lane - half_lanes : lane + half_lanes;
    float cosine[8], sine[8];
    const float* angles = p.cos_sin + position * p.rotary_dim + (rotates ? chunk % half_lanes * 8 : 0);
    load8(angles, cosine);
    load8(angles + p.rotary_dim / 2, sine);
#pragma unroll
    for (int j = 0; j < 8; ++j) sine[j] = is_second_half ? sine[j] : -sine[j];

#pragma unroll
    for (int i = 0; i < kHeadsPerLane; ++i) {
        const int head = first_head + i * kHeadsAtOnce;
        const bool is_query = head < p.num_q_heads, is_value = head >= p.num_q_heads + p.num_kv_heads;
        float x[8];
        unpack8<SCALAR>(raw[i], x);
#if HAS_NORM
        float square_sum = 0.f, weight[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) square_sum += x[j] * x[j];
        const float scale = rsqrtf(lane_group_sum<kLanesPerHead>(square_sum) / HEAD_DIM + p.eps);
        unpack8<SCALAR>(__ldg(vector(is_query ? p.q_weight : p.k_weight) + chunk), weight);
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] *= scale * weight[j];
#endif
        float rotated[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float other = __shfl_sync(kFullWarp, x[j], partner);
            rotated[j] = rotates ? x[j] * cosine[j] + other * sine[j] : x[j];
        }
        const uint4 result = is_value ? raw[i] : pack8<SCALAR>(rotated);
        if (is_query) {
            vector(p.q_out + token * p.q_row_stride + head * HEAD_DIM)[chunk] = result;
        } else if (head < num_heads && slot >= 0) {
            const unsigned block = unsigned(slot) / p.block_size, offset = unsigned(slot) % p.block_size;
            const int kv_row = (head - p.num_q_heads) * p.block_size + offset;  // [2, Hk, block_size] is [2 Hk, block_size]
            vector(p.kv + block * p.kv_block_stride + kv_row * HEAD_DIM)[chunk] = result;
        }
    }
}
