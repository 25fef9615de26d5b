// Where top-k and top-p cut a row: the lowest key (logit as an ordered integer) that is kept.
//
// 16-bit logits take few distinct values: a histogram over *values* (one bin each, kBins of them down from the maximum) gives
// counts, and count times exp gives masses, exactly and without floating-point atomics. The rare cut below the histogram's window
// takes another window. Float32 logits take a bitwise search, one pass over the slice a bit.
#pragma once

#include <nanopd/sampling_row.cuh>

namespace nanopd {

constexpr int kBinsPerThread = kBins / kThreads;

struct Limit {  // stop as soon as one of these is reached, counting from the heaviest token
    int count;
    float sum;
};

struct Stop {
    bool reached;
    unsigned key;  // tokens from it on reach the limit; 0 if all together do not
    Mass through;  // of those tokens
};

// Tokens of the row whose key is at least `key`; two cluster barriers.
__device__ inline Mass mass_from(const Row& row, unsigned key, Shared& shared) {
    const float lowest = logit_of(key);  // not a number for key 0: nothing is skipped
    int count = 0;
    float sum = 0.f;
    for (int group = threadIdx.x; group < row.slice.num_groups(); group += kThreads) {
        const Raw raw = row.slice.load(group);
        if (raw.highest() < lowest) continue;
        float x[kGroup];
        raw.unpack(x);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            const float mass = row.mass(x[i]);
            const bool counts = key_of(x[i]) >= key && mass >= row.min_mass && group * kGroup + i < row.slice.length;
            count += counts;
            sum += counts ? mass : 0.f;
        }
    }
    const Mass mine = {cta_sum(count, shared), cta_sum(sum, shared)};
    publish(shared.cta_mass, mine);
    RowCluster::sync();
    Mass total = {0, 0.f};
#pragma unroll
    for (int r = 0; r < kCtas; ++r) total.count += shared.cta_mass[r].count, total.sum += shared.cta_mass[r].sum;
    RowCluster::sync();
    return total;
}

// The highest key such that the tokens from it on reach the limit, bit by bit.
__device__ inline Stop find_stop_by_bits(const Row& row, const Limit& limit, Shared& shared) {
    const auto reaches = [&](const Mass& mass) {
        return mass.count > 0 && (mass.count >= limit.count || mass.sum >= limit.sum);
    };
    const Mass all = mass_from(row, 0, shared);
    if (!reaches(all)) return {false, 0, all};
    unsigned key = 0;
    for (unsigned bit = 1u << 31; bit; bit >>= 1)
        if (reaches(mass_from(row, key | bit, shared))) key |= bit;
    return {true, key, mass_from(row, key, shared)};
}

// Goes down the counts of the kBins keys from `high` on, starting with what lies above; the same result in every thread.
__device__ inline Stop search_bins(const Row& row, const int* counts, unsigned high, const Limit& limit, Mass above,
                                   Shared& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Mass bins[kBinsPerThread];
    Mass upto = {0, 0.f};  // this thread's bins, then those of the lanes before too
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
        const int bin = threadIdx.x * kBinsPerThread + i;
        const int count = counts[bin];
        const float each = count ? row.mass(logit_of(high - bin)) : 0.f;
        bins[i] = count && each >= row.min_mass ? Mass{count, count * each} : Mass{0, 0.f};
        upto.count += bins[i].count, upto.sum += bins[i].sum;
    }
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int count = __shfl_up_sync(0xffffffff, upto.count, distance);
        const float sum = __shfl_up_sync(0xffffffff, upto.sum, distance);
        if (lane >= distance) upto.count += count, upto.sum += sum;
    }
    __syncthreads();
    if (lane == 31) shared.warp_mass[warp] = upto;
    __syncthreads();
    Mass all = above;
#pragma unroll 8
    for (int w = 0; w < kWarps; ++w) {
        if (w < warp) above.count += shared.warp_mass[w].count, above.sum += shared.warp_mass[w].sum;
        all.count += shared.warp_mass[w].count, all.sum += shared.warp_mass[w].sum;
    }
    const int lanes_count = __shfl_up_sync(0xffffffff, upto.count, 1);
    const float lanes_sum = __shfl_up_sync(0xffffffff, upto.sum, 1);
    if (lane > 0) above.count += lanes_count, above.sum += lanes_sum;

    int stop = kNone;  // this thread's first bin with which the limit is reached
    Mass through = {0, 0.f};
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
        above.count += bins[i].count, above.sum += bins[i].sum;
        if (stop == kNone && bins[i].count && (above.count >= limit.count || above.sum >= limit.sum))
            stop = threadIdx.x * kBinsPerThread + i, through = above;
    }
    const int first = cta_min(stop, shared);
    if (first == kNone) return {false, 0, all};
    if (first == stop) shared.through_stop = through;
    __syncthreads();
    return {true, high - first, shared.through_stop};
}

// Counts of the row's tokens by value, for the kBins keys from `high` down; tokens below the logit `lowest` may be left out.
struct Window {
    unsigned high;
    int highest_below;  // key of the next token below the window, -1 if there is none from `lowest` on

    __device__ static Window build(const Row& row, unsigned high, float lowest, Shared& shared) {
        for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
        __syncthreads();
        int highest = -1;
        for (int group = threadIdx.x; group < row.slice.num_groups(); group += kThreads) {
            const Raw raw = row.slice.load(group);
            if (raw.highest() < lowest) continue;
            float x[kGroup];
            raw.unpack(x);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                const unsigned key = key_of(x[i]);
                if (key > high || !(x[i] >= lowest)) continue;
                if (high - key < kBins) {
                    atomicAdd(&shared.bins[high - key], 1);
                } else {
                    highest = max(highest, static_cast<int>(key));
                }
            }
        }
        highest = cta_max(highest, shared);
        publish(shared.cta_below, highest);
        RowCluster::sync();
        for (int r = 0; r < kCtas; ++r) highest = max(highest, shared.cta_below[r]);
        // Each CTA adds up its share of the bins and gives the sums to all.
        for (int i = threadIdx.x; i < kBins / kCtas; i += kThreads) {
            const int bin = RowCluster::rank() * (kBins / kCtas) + i;
            int count = 0;
#pragma unroll
            for (int r = 0; r < kCtas; ++r) count += RowCluster::peer(shared.bins, r)[bin];
#pragma unroll
            for (int r = 0; r < kCtas; ++r) RowCluster::peer(shared.row_bins, r)[bin] = count;
        }
        RowCluster::sync();
        return {high, highest};
    }
};

// Finds stops in one row, from the top for each limit. `lowest`: no stop lies below this logit.
struct Search {
    const Row& row;
    float lowest;
    Shared& shared;
    Window window;

    __device__ Search(const Row& row, float lowest, Shared& shared) : row(row), lowest(lowest), shared(shared) {
        if constexpr (kIs16Bit) window = Window::build(row, key_of(row.maximum), lowest, shared);
    }
    __device__ Stop find(const Limit& limit) {
        if constexpr (!kIs16Bit) return find_stop_by_bits(row, limit, shared);
        if (window.high != key_of(row.maximum)) window = Window::build(row, key_of(row.maximum), lowest, shared);
        Mass above = {0, 0.f};
        while (true) {
            const Stop stop = search_bins(row, shared.row_bins, window.high, limit, above, shared);
            if (stop.reached || window.highest_below < 0) return stop;
            above = stop.through;
            window = Window::build(row, window.highest_below, lowest, shared);
        }
    }
};

// The k-th of the threads' best logits, which at least k tokens reach; -infinity if it is far below the maximum.
__device__ inline float kth_best(const Row& row, float best, int k, Shared& shared) {
    const unsigned high = key_of(row.maximum), key = key_of(best);
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) shared.bins[bin] = 0;
    __syncthreads();
    if (high - key < kBins) atomicAdd(&shared.bins[high - key], 1);
    __syncthreads();
    const Stop stop = search_bins(row, shared.bins, high, {k, INFINITY}, {0, 0.f}, shared);
    __syncthreads();
    return stop.reached ? logit_of(stop.key) : -INFINITY;
}

// The logit below which the search need not look. With a floor under masses (min-p) that floor. For top-p alone: tokens lighter
// than (1 - p) / V hold at most 1 - p together, which is less than what top-p may leave out, since all hold at least 1. For top-k:
// what the best tokens of k threads of this CTA reach, or of all threads of the cluster.
__device__ inline float lowest_logit(const Row& row, float best, long long top_k, float top_p, int vocab, Shared& shared) {
    const float lightest = row.min_mass > 0.f ? row.min_mass : top_k > 0 ? 0.f : (1.f - top_p) / vocab;
    float lowest = row.maximum + __log2f(0.999f * lightest) / row.scale;
    if (top_k > 0 && top_k <= kThreads) lowest = fmaxf(lowest, kth_best(row, best, static_cast<int>(top_k), shared));
    if (top_k > kThreads && top_k <= kThreads * kCtas) {
        float reached = INFINITY;
        for (int r = 0; r < kCtas; ++r) reached = fminf(reached, shared.cta_peaks[r].reached);
        lowest = fmaxf(lowest, reached);
    }
    return lowest;
}

// The key from which tokens are kept: top-k among those min-p leaves, then top-p among those. `total` is the row's whole
// mass, `best` this thread's largest logit.
__device__ inline unsigned find_cut(const Row& row, float best, long long top_k, float top_p, float total, int vocab,
                                    Shared& shared) {
    if (top_k <= 0 && top_p >= 1.f) return 0;
    Search search(row, kIs16Bit ? lowest_logit(row, best, top_k, top_p, vocab, shared) : -INFINITY, shared);
    Limit limit = {kNone, INFINITY};
    unsigned key = 0;
    if (top_k > 0 || row.min_mass > 0.f) {
        if (top_k > 0) limit.count = static_cast<int>(min(top_k, static_cast<long long>(kNone)));
        const Stop stop = search.find(limit);
        key = stop.key, total = stop.through.sum;
    }
    if (top_p >= 1.f) return key;
    limit.sum = top_p * total;
    const Stop stop = search.find(limit);
    return stop.reached ? stop.key : key;
}

}  // namespace nanopd
