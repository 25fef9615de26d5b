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
constexpr int kBinBits = 10, kBins = 1 << kBinBits;
constexpr int kKeptBins = HAS_FILTERS ? kBins : 1;
constexpr int kGroup = 16 / sizeof(LOGIT);  // logits of one 16-byte load
constexpr int kFewShares = 6;
constexpr int kNone = 0x7fffffff;
constexpr float kLeastMass = 1.2e-38f;  // what is lighter counts as nothing: exp2_approx gives 0 or this
static_assert(kBins % kThreads == 0 && kBins % kCtas == 0 && kWarps <= 32 && kCtas <= 32);

struct Mass {  // of a set of tokens
    int count;
    float sum;  // of exp((logit - maximum) / temperature)
};
__device__ inline Mass operator+(const Mass& a, const Mass& b) { return {a.count + b.count, a.sum + b.sum}; }
__device__ inline Mass from_lane(const Mass& x, int lane) {
    return {__shfl_sync(kFullWarp, x.count, lane), __shfl_sync(kFullWarp, x.sum, lane)};
}

struct Peak {  // of a run of tokens
    float maximum;
    int token;      // the first that has it
    float sum;      // of exp((logit - maximum) / temperature)
    float reached;  // a logit that at least k / kCtas tokens of a CTA reach

    __device__ static Peak none() { return {-INFINITY, kNone, 0.f, INFINITY}; }
};

// Counts by key, and masses as integers, which add up to the same in any order: a token weighs share * 2^26 of its bin's
// heaviest possible token, the upper 13 bits in `high` and the lower 13 in `low`, so that 2^18 tokens fit.
struct Bins {
    int count[kKeptBins];
    unsigned high[kKeptBins], low[kKeptBins];
};

struct Shared {
    int warp_ints[kWarps];
    Peak warp_peaks[kWarps];
    Mass warp_mass[kWarps];
    float run_sums[kWarps];    // kept mass of each warp's run
    float piece_sums[kWarps];  // and of each warp's share of the run that is drawn from
    // One entry per CTA of the cluster, written by that CTA:
    Peak cta_peaks[kCtas];
    float cta_sums[kCtas];
    Mass above, through;
    Bins bins;               // of this CTA's slice
    Mass coarse[kKeptBins];  // of the row: the first window,
    Mass fine[kKeptBins];    // and one inside a bin of it
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

template <typename Scalar> __device__ void unpack_group(const uint4& words, float (&x)[8]) { unpack8<Scalar>(words, x); }
template <typename> __device__ void unpack_group(const uint4& words, float (&x)[4]) {
    x[0] = __uint_as_float(words.x), x[1] = __uint_as_float(words.y);
    x[2] = __uint_as_float(words.z), x[3] = __uint_as_float(words.w);
}

struct Raw {  // kGroup logits as loaded
    uint4 words;

    __device__ static Raw load(const LOGIT* from) { return {*reinterpret_cast<const uint4*>(from)}; }
    __device__ void unpack(float (&x)[kGroup]) const {
        unpack_group<LOGIT>(words, x);
    }
    template <typename Scalar = LOGIT> __device__ float highest() const {
        if constexpr (sizeof(Scalar) == 2) {
            const unsigned left = max_of_pairs<Scalar>(words.x, words.y), right = max_of_pairs<Scalar>(words.z, words.w);
            const float2 two = Pair<Scalar>::unpack(max_of_pairs<Scalar>(left, right));
            return fmaxf(two.x, two.y);
        } else {
            float x[kGroup];
            unpack(x);
            return fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
        }
    }
};

struct Slice {
    const LOGIT* logits;  // from its first token on
    int first;            // token id
    int length;           // tokens; the last group may be partial
    bool aligned;         // to 16 bytes
    int run_groups;       // of each warp's run
    int first_group, end_group;  // of this warp's run

    __device__ int num_groups() const { return (length + kGroup - 1) / kGroup; }
    __device__ bool is_whole(int group) const { return aligned && (group + 1) * kGroup <= length; }
    __device__ Raw load_partial(int group) const {  // past the end: minus infinity, which weighs nothing
        Raw raw;
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            const int token = group * kGroup + i;
            reinterpret_cast<LOGIT*>(&raw.words)[i] = token < length ? logits[token] : LOGIT(-INFINITY);
        }
        return raw;
    }

    // visit(group, raw) for every step-th group of [first, end), kAhead loads ahead of their use.
    template <int kAhead, typename Visit> __device__ void look(int first, int end, int step, const Visit& visit) const {
        for (int base = first; base < end; base += kAhead * step) {
            Raw raw[kAhead];
#pragma unroll
            for (int a = 0; a < kAhead; ++a) {
                const int group = base + a * step;
                if (group < end && is_whole(group)) raw[a] = Raw::load(logits + group * kGroup);
            }
#pragma unroll
            for (int a = 0; a < kAhead; ++a) {
                const int group = base + a * step;
                if (group >= end) break;
                if (!is_whole(group)) raw[a] = load_partial(group);
                visit(group, raw[a]);
            }
        }
    }

    // Every thread at its share of the warp's run: each 32nd group.
    template <typename Visit> __device__ void look_at_run(const Visit& visit) const {
        look<4>(first_group + threadIdx.x % 32, end_group, 32, visit);
    }

    // The same groups of those threads only that want theirs looked at, in an order that depends on who does: few shares are
    // looked at by the whole warp, one after another, which takes one trip to memory each instead of one every four groups.
    template <typename Visit> __device__ void look_at_shares(bool wanted, const Visit& visit) const {
        unsigned shares = __ballot_sync(kFullWarp, wanted);
        if (__popc(shares) > kFewShares) {
            if (wanted) look_at_run(visit);
            return;
        }
        for (; shares; shares &= shares - 1)
            look<2>(first_group + __ffs(shares) - 1 + 32 * (threadIdx.x % 32), end_group, 32 * 32, visit);
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

// The smallest x of the CTA, in every thread.
__device__ inline int cta_min(int x, Shared& shared) {
    x = __reduce_min_sync(kFullWarp, x);
    __syncthreads();  // earlier uses of the scratch are over
    if (threadIdx.x % 32 == 0) shared.warp_ints[threadIdx.x / 32] = x;
    __syncthreads();
    return __reduce_min_sync(kFullWarp, threadIdx.x % 32 < kWarps ? shared.warp_ints[threadIdx.x % 32] : kNone);
}

// Inclusive sums over the lanes of a warp.
template <typename T> __device__ inline T lane_scan(T x) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const T before = __shfl_up_sync(kFullWarp, x, distance);
        if (threadIdx.x % 32 >= distance) x += before;
    }
    return x;
}

// Shows a value of this CTA to all CTAs of the cluster; they may read it after the next cluster barrier.
template <typename T> __device__ inline void publish(T (&slots)[kCtas], const T& value) {
    if (threadIdx.x < kCtas) RowCluster::peer(slots, threadIdx.x)[RowCluster::rank()] = value;
}

}  // namespace nanopd
