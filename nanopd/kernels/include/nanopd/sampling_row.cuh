// One row of logits, cut into a slice per CTA of a cluster, and what the CTAs share about it.
//
// Macros as in sampling.cu.
#pragma once

#include <nanopd/cluster.cuh>
#include <nanopd/math.cuh>
#include <nanopd/scalar.cuh>

namespace nanopd {

using RowCluster = Cluster<CLUSTER>;

constexpr int kCtas = CLUSTER;
constexpr int kThreads = THREADS;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 2048;
constexpr int kGroup = 8;  // logits a thread takes at once
constexpr bool kIs16Bit = sizeof(LOGIT) == 2;
constexpr int kNone = 0x7fffffff;
static_assert(kBins % kThreads == 0 && kBins % kCtas == 0 && kWarps <= 32 && kCtas <= 32);

struct Mass {  // of a set of tokens
    int count;
    float sum;  // of exp((logit - maximum) / temperature)
};

struct Peak {  // of a run of tokens
    float maximum;
    float sum;      // of exp((logit - maximum) / temperature)
    float reached;  // a logit that each thread's best token reaches
};

struct Shared {
    float warp_floats[kWarps];
    int warp_ints[kWarps];
    Peak warp_peaks[kWarps];
    Mass warp_mass[kWarps];
    float run_sums[kWarps];    // kept mass of each warp's run
    float piece_sums[kWarps];  // and of each warp's share of the run that is drawn from
    // One entry per CTA of the cluster, written by that CTA:
    Peak cta_peaks[kCtas];
    int cta_ints[kCtas];
    int cta_below[kCtas];
    Mass cta_mass[kCtas];
    float cta_sums[kCtas];
    Mass through_stop;
    int bins[HAS_FILTERS ? kBins : 1];      // of this CTA's slice
    int row_bins[HAS_FILTERS ? kBins : 1];  // of the row
};

// ---- integers in the order of the logits ----

__device__ inline unsigned ordered(unsigned bits, unsigned sign) { return bits & sign ? ~bits & (2 * sign - 1) : bits | sign; }
__device__ inline unsigned unordered(unsigned key, unsigned sign) { return key & sign ? key ^ sign : ~key & (2 * sign - 1); }

// Adding zero turns -0 into 0: equal logits get equal keys.
__device__ inline unsigned key_of(float x, float) { return ordered(__float_as_uint(x + 0.f), 0x80000000u); }
__device__ inline unsigned key_of(float x, __nv_bfloat16) { return ordered(__float_as_uint(x + 0.f) >> 16, 0x8000u); }
__device__ inline unsigned key_of(float x, __half) { return ordered(__half_as_ushort(__float2half_rn(x + 0.f)), 0x8000u); }
__device__ inline unsigned key_of(float x) { return key_of(x, LOGIT(0.f)); }

__device__ inline float logit_of(unsigned key, float) { return __uint_as_float(unordered(key, 0x80000000u)); }
__device__ inline float logit_of(unsigned key, __nv_bfloat16) { return __uint_as_float(unordered(key, 0x8000u) << 16); }
__device__ inline float logit_of(unsigned key, __half) { return __half2float(__ushort_as_half(unordered(key, 0x8000u))); }
__device__ inline float logit_of(unsigned key) { return logit_of(key, LOGIT(0.f)); }

// ---- this CTA's slice ----

// The larger of each half.
template <typename Scalar> __device__ unsigned max_of_pairs(unsigned a, unsigned b);
template <> __device__ inline unsigned max_of_pairs<__nv_bfloat16>(unsigned a, unsigned b) {
    const __nv_bfloat162 c = __hmax2(reinterpret_cast<__nv_bfloat162&>(a), reinterpret_cast<__nv_bfloat162&>(b));
    return reinterpret_cast<const unsigned&>(c);
}
template <> __device__ inline unsigned max_of_pairs<__half>(unsigned a, unsigned b) {
    const __half2 c = __hmax2(reinterpret_cast<__half2&>(a), reinterpret_cast<__half2&>(b));
    return reinterpret_cast<const unsigned&>(c);
}

struct Raw {  // kGroup logits as loaded
    uint4 words[kGroup * sizeof(LOGIT) / 16];

    __device__ static Raw load(const LOGIT* from) {
        Raw raw;
#pragma unroll
        for (int i = 0; i < sizeof(Raw) / 16; ++i) raw.words[i] = reinterpret_cast<const uint4*>(from)[i];
        return raw;
    }
    __device__ void store(LOGIT* to) const {
#pragma unroll
        for (int i = 0; i < sizeof(Raw) / 16; ++i) reinterpret_cast<uint4*>(to)[i] = words[i];
    }
    __device__ void unpack(float (&x)[kGroup]) const {
        if constexpr (kIs16Bit) {
            unpack8<LOGIT>(words[0], x);
        } else {
#pragma unroll
            for (int i = 0; i < kGroup; ++i) x[i] = reinterpret_cast<const float*>(words)[i];
        }
    }
    template <typename Scalar = LOGIT> __device__ float highest() const {
        if constexpr (sizeof(Scalar) == 2) {
            const uint4& w = words[0];
            const unsigned pair = max_of_pairs<Scalar>(max_of_pairs<Scalar>(w.x, w.y), max_of_pairs<Scalar>(w.z, w.w));
            const float2 two = Pair<Scalar>::unpack(pair);
            return fmaxf(two.x, two.y);
        } else {
            float x[kGroup];
            unpack(x);
            float most = x[0];
#pragma unroll
            for (int i = 1; i < kGroup; ++i) most = fmaxf(most, x[i]);
            return most;
        }
    }
};

struct Slice {
    const LOGIT* global;  // its first token
    LOGIT* shared;
    int first;            // token id
    int length;           // tokens; the last group may be partial
    bool aligned;         // to 16 bytes in global memory
    int run_groups;       // of each warp's run
    int first_group, end_group;  // of this warp's run

    __device__ int num_groups() const { return (length + kGroup - 1) / kGroup; }
    __device__ bool is_whole(int group) const { return aligned && (group + 1) * kGroup <= length; }
    __device__ Raw load_partial(int group) const {  // past the end: minus infinity, which weighs nothing
        Raw raw;
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            const int token = group * kGroup + i;
            reinterpret_cast<LOGIT*>(raw.words)[i] = token < length ? global[token] : LOGIT(-INFINITY);
        }
        return raw;
    }
    __device__ Raw load(int group) const {
        if constexpr (SLICE_IN_SHARED) return Raw::load(shared + group * kGroup);
        return is_whole(group) ? Raw::load(global + group * kGroup) : load_partial(group);
    }
};

// The row under its temperature.
struct Row {
    Slice slice;
    float maximum;
    float scale;     // log2(e) / temperature
    float min_mass;  // tokens lighter than this are out (min-p; the heaviest token weighs 1)

    __device__ float mass(float logit) const { return exp2_approx((logit - maximum) * scale); }
};

// ---- reductions over the CTA in a fixed order, the result in every thread ----

template <typename T, typename Reduce> __device__ inline T cta_reduce(T x, T identity, T* scratch, const Reduce& reduce) {
    x = reduce(x);
    __syncthreads();  // earlier uses of the scratch are over
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    return reduce(threadIdx.x % 32 < kWarps ? scratch[threadIdx.x % 32] : identity);
}
__device__ inline int cta_min(int x, Shared& shared) {
    return cta_reduce(x, kNone, shared.warp_ints, [](int v) { return __reduce_min_sync(0xffffffff, v); });
}
__device__ inline int cta_max(int x, Shared& shared) {
    return cta_reduce(x, -1, shared.warp_ints, [](int v) { return __reduce_max_sync(0xffffffff, v); });
}
__device__ inline int cta_sum(int x, Shared& shared) {
    return cta_reduce(x, 0, shared.warp_ints, [](int v) { return __reduce_add_sync(0xffffffff, v); });
}
__device__ inline float cta_sum(float x, Shared& shared) {
    return cta_reduce(x, 0.f, shared.warp_floats, [](float v) { return lane_group_sum<32>(v); });
}

// Shows a value of this CTA to all CTAs of the cluster; they may read it after the next cluster barrier.
template <typename T> __device__ inline void publish(T (&slots)[kCtas], const T& value) {
    if (threadIdx.x < kCtas) RowCluster::peer(slots, threadIdx.x)[RowCluster::rank()] = value;
}

}  // namespace nanopd
