// A warp's part of decode attention: up to 16 query heads against tiles of keys and values in shared memory.
//
// The query heads that share a kv head are the 8 columns of a tensor-core tile (kHeadTiles of them):
//
//     S^T [keys, heads] = K Q^T         K is the A operand as it lies in memory, 16 keys a step
//     O^T [dims, heads] = V^T P^T       V^T by transposing ldmatrix; P^T from S^T by transposing 8x8 matrices in registers
//
// Both products keep a head in the same lanes (lane 4g + t holds heads 8h + 2t and 8h + 2t + 1), so the running maximum and
// the rescaling need no exchange between them.
#pragma once

#include <nanopd/math.cuh>
#include <nanopd/mma.cuh>
#include <nanopd/scalar.cuh>

namespace nanopd {

// Offset of 16-byte piece `piece` of a row in a tile: the eight rows that an ldmatrix reads are in different banks.
__device__ __forceinline__ int swizzled_piece(int row, int piece) { return (piece ^ (row % 8)) * 16; }

template <typename Scalar, int kHeadDim, int kHeadTiles, int kTileKeys>
struct DecodeWarp {
    static constexpr int kRowBytes = kHeadDim * 2, kSteps = kTileKeys / 16;
    static constexpr bool kTwoChains = kHeadDim * kHeadTiles < 512;  // of mma over the head dim; else registers run out

    unsigned query[kHeadTiles][kHeadDim / 16][2];  // B operand
    float max[kHeadTiles][2];                      // in units of log2
    float sum[kHeadTiles][2];                      // over this lane's keys only
    float out[kHeadTiles][kHeadDim / 16][4];       // dims 16i + g and + 8 of the two heads

    // q [num_heads, kHeadDim]; forgets what came before.
    __device__ __forceinline__ void start(const Scalar* q, int num_heads) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int h = 0; h < kHeadTiles; ++h) {
            const unsigned* row = reinterpret_cast<const unsigned*>(q + (h * 8 + g) * kHeadDim) + t;
#pragma unroll
            for (int i = 0; i < kHeadDim / 16; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) query[h][i][half] = h * 8 + g < num_heads ? row[i * 8 + half * 4] : 0u;
#pragma unroll
                for (int e = 0; e < 4; ++e) out[h][i][e] = 0.f;
            }
#pragma unroll
            for (int c = 0; c < 2; ++c) max[h][c] = -INFINITY, sum[h][c] = 0.f;
        }
    }

    // One tile: shared addresses of its keys and values, [kTileKeys, kHeadDim] each, of which the first num_keys are real.
    __device__ __forceinline__ void attend(unsigned keys, unsigned values, int num_keys, float scale_log2) {
        float scores[kSteps][kHeadTiles][4];
        multiply_keys(keys, scores);
        if (num_keys < kTileKeys) mask(num_keys, scores);
        unsigned weights[kSteps][kHeadTiles][2];
        update(scores, scale_log2, weights);
        multiply_values(values, weights);
    }

private:
    __device__ __forceinline__ void multiply_keys(unsigned keys, float (&scores)[kSteps][kHeadTiles][4]) {
        const int lane = threadIdx.x % 32;
        const unsigned row = keys + lane % 16 * kRowBytes;
        float other[kSteps][kHeadTiles][4] = {};
#pragma unroll
        for (int s = 0; s < kSteps; ++s)
#pragma unroll
            for (int h = 0; h < kHeadTiles; ++h)
#pragma unroll
                for (int e = 0; e < 4; ++e) scores[s][h][e] = 0.f;
#pragma unroll
        for (int i = 0; i < kHeadDim / 16; ++i)
#pragma unroll
            for (int s = 0; s < kSteps; ++s) {
                unsigned k[4];
                ldmatrix_x4(k, row + s * 16 * kRowBytes + swizzled_piece(lane, 2 * i + lane / 16));
#pragma unroll
                for (int h = 0; h < kHeadTiles; ++h)
                    mma_m16n8k16<Scalar>(kTwoChains && i % 2 ? other[s][h] : scores[s][h], k, query[h][i][0], query[h][i][1]);
            }
#pragma unroll
        for (int s = 0; s < kSteps; ++s)
#pragma unroll
            for (int h = 0; h < kHeadTiles; ++h)
#pragma unroll
                for (int e = 0; e < 4; ++e) scores[s][h][e] += other[s][h][e];
    }

    __device__ __forceinline__ void mask(int num_keys, float (&scores)[kSteps][kHeadTiles][4]) {
        const int g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int s = 0; s < kSteps; ++s)
#pragma unroll
            for (int h = 0; h < kHeadTiles; ++h)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (s * 16 + g + e / 2 * 8 >= num_keys) scores[s][h][e] = -INFINITY;
    }

    // Online softmax: the weights as B operand of the second product, and everything so far relative to the new maximum.
    __device__ __forceinline__ void update(const float (&scores)[kSteps][kHeadTiles][4], float scale_log2,
                                           unsigned (&weights)[kSteps][kHeadTiles][2]) {
#pragma unroll
        for (int h = 0; h < kHeadTiles; ++h) {
            float correction[2];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                float highest = scores[0][h][c];
#pragma unroll
                for (int s = 0; s < kSteps; ++s) highest = fmaxf(highest, fmaxf(scores[s][h][c], scores[s][h][c + 2]));
                highest = fmaxf(max[h][c], max_over_rows(highest) * scale_log2);
                correction[c] = exp2_approx(max[h][c] - highest);
                max[h][c] = highest;
                sum[h][c] *= correction[c];
            }
            // Once the maximum has settled nothing needs rescaling, which is most of the time.
            if (__any_sync(kFullWarp, correction[0] != 1.f || correction[1] != 1.f)) {
#pragma unroll
                for (int i = 0; i < kHeadDim / 16; ++i)
#pragma unroll
                    for (int e = 0; e < 4; ++e) out[h][i][e] *= correction[e % 2];
            }
#pragma unroll
            for (int s = 0; s < kSteps; ++s) {
                float weight[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    weight[e] = exp2_approx(fmaf(scores[s][h][e], scale_log2, -max[h][e % 2]));
                    sum[h][e % 2] += weight[e];
                }
                weights[s][h][0] = movmatrix_transposed(Pair<Scalar>::pack(weight[0], weight[1]));
                weights[s][h][1] = movmatrix_transposed(Pair<Scalar>::pack(weight[2], weight[3]));
            }
        }
    }

    __device__ __forceinline__ void multiply_values(unsigned values, const unsigned (&weights)[kSteps][kHeadTiles][2]) {
        const int lane = threadIdx.x % 32;
        const unsigned row = values + (lane % 8 + lane / 16 * 8) * kRowBytes;
#pragma unroll
        for (int i = 0; i < kHeadDim / 16; ++i)
#pragma unroll
            for (int s = 0; s < kSteps; ++s) {
                unsigned v[4];
                ldmatrix_x4_transposed(v, row + s * 16 * kRowBytes + swizzled_piece(lane, 2 * i + lane / 8 % 2));
#pragma unroll
                for (int h = 0; h < kHeadTiles; ++h) mma_m16n8k16<Scalar>(out[h][i], v, weights[s][h][0], weights[s][h][1]);
            }
    }
};

}  // namespace nanopd
