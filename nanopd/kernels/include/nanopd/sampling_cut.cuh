// Where top-k and top-p cut a row: the lowest key (logit as an ordered integer) that is kept.
//
// A histogram over the keys between the maximum and a bound that no cut can lie below; then one over the keys of the bin in which
// the limit is reached, until that bin holds one token or one key. Counts are exact and masses are added as integers, so
// neither depends on the order of the threads. Threads whose best token lies below the bound have nothing to look at, which is
// most of them whenever a model is fairly sure of itself.
#pragma once

#include <nanopd/sampling_row.cuh>

namespace nanopd {

constexpr int kBinsPerThread = kBins / kThreads;

struct Limit {  // stop as soon as one of these is reached, counting from the heaviest token
    int count;
    float sum;
};

struct Stop {
    int bin;       // the first with which the limit is reached; kNone if it is not
    Mass above;    // of the tokens before that bin
    Mass through;  // and with it
};

struct Cut {
    unsigned key;  // tokens from it on reach the limit; 0 if all together do not
    Mass through;  // of those tokens
};

// Goes down the bins of a window, counting on from what lies above it; the same result in every thread.
__device__ inline Stop search_bins(const Mass* bins, const Limit& limit, const Mass& above, Shared& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Mass mine[kBinsPerThread], upto = {0, 0.f};
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
        mine[i] = bins[threadIdx.x * kBinsPerThread + i];
        upto = upto + mine[i];
    }
    upto = {lane_scan(upto.count), lane_scan(upto.sum)};
    __syncthreads();  // the result of an earlier search has been read
    if (lane == 31) shared.warp_mass[warp] = upto;
    __syncthreads();
    const Mass of_warp = lane < kWarps ? shared.warp_mass[lane] : Mass{0, 0.f};
    const Mass warps = {lane_scan(of_warp.count), lane_scan(of_warp.sum)};
    Mass reached = above;
    if (warp > 0) reached = reached + from_lane(warps, warp - 1);
    const Mass lanes = from_lane(upto, max(lane - 1, 0));
    if (lane > 0) reached = reached + lanes;

    int bin = kNone;
    Mass before, through;
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
        const Mass next = reached + mine[i];
        if (bin == kNone && mine[i].count && (next.count >= limit.count || next.sum >= limit.sum))
            bin = threadIdx.x * kBinsPerThread + i, before = reached, through = next;
        reached = next;
    }
    const int first = cta_min(bin, shared);
    if (first == kNone) return {kNone, above, above + from_lane(warps, 31)};
    if (first == bin) shared.above = before, shared.through = through;
    __syncthreads();
    return {first, shared.above, shared.through};
}

// kBins bins of 2^shift keys each, from key `high` down.
struct Window {
    unsigned high;
    int shift;

    __device__ static Window between(unsigned low, unsigned high) {
        return {high, max(0, 32 - __clz(static_cast<int>(high - low)) - kBinBits)};
    }
    __device__ Window inside(int bin) const { return {heaviest(bin), max(0, shift - kBinBits)}; }
    __device__ unsigned bin_of(unsigned key) const { return (high - key) >> shift; }  // kBins or more: outside
    __device__ unsigned heaviest(int bin) const { return high - (static_cast<unsigned>(bin) << shift); }
    __device__ unsigned lightest(int bin) const { return heaviest(bin) - ((1u << shift) - 1); }
};

// Finds cuts in one row. `lowest`: no cut lies below this logit; `best`: this thread's largest.
struct Search {
    const Row& row;
    float best, lowest;
    Shared& shared;
    Window coarse;

    __device__ Search(const Row& row, float best, float lowest, Shared& shared)
        : row(row), best(best), lowest(lowest), shared(shared) {
        coarse = Window::between(key_of(lowest) - 1, key_of(row.maximum));  // - 1: rounded to LOGIT it may have risen
        count(coarse, shared.coarse);
    }

    __device__ Cut find(const Limit& limit) {
        Window window = coarse;
        Stop stop = search_bins(shared.coarse, limit, {0, 0.f}, shared);
        if (stop.bin == kNone) return {0, stop.through};
        while (window.shift > 0 && stop.through.count > stop.above.count + 1) {
            const Window inside = window.inside(stop.bin);
            count(inside, shared.fine);
            const Stop found = search_bins(shared.fine, limit, stop.above, shared);
            if (found.bin == kNone) break;  // finer sums may round to just below the limit
            window = inside, stop = found;
        }
        return {window.lightest(stop.bin), stop.through};
    }

    // The row's tokens by bin.
    __device__ void count(const Window& window, Mass* of_row) {
        Bins& bins = shared.bins;
        for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins.count[bin] = 0, bins.high[bin] = bins.low[bin] = 0;
        __syncthreads();
        row.slice.look_at_shares(best >= lowest, [&](int, const Raw& raw) {
            if (raw.highest() >= lowest) add(window, raw);
        });
        RowCluster::sync();
        // Each CTA adds up its share of the bins and gives the sums to all.
        for (int i = threadIdx.x; i < kBins / kCtas; i += kThreads) {
            const int bin = RowCluster::rank() * (kBins / kCtas) + i;
            int count = 0;
            unsigned high = 0, low = 0;
#pragma unroll 4  // registers
            for (int r = 0; r < kCtas; ++r) {
                const Bins& theirs = *RowCluster::peer(&bins, r);
                count += theirs.count[bin], high += theirs.high[bin], low += theirs.low[bin];
            }
            const float each = count ? row.mass(logit_of(window.heaviest(bin))) : 0.f;
            const float shares = window.shift ? high * 0x1p-13f + low * 0x1p-26f : count;
#pragma unroll 4
            for (int r = 0; r < kCtas; ++r) RowCluster::peer(of_row, r)[bin] = {count, each * shares};
        }
        RowCluster::sync();
    }

    __device__ void add(const Window& window, const Raw& raw) {
        const float least = fmaxf(row.min_mass, kLeastMass);
        float x[kGroup];
        raw.unpack(x);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            const unsigned key = key_of(x[i]), bin = window.bin_of(key);
            if (!(x[i] >= lowest) || key > window.high || bin >= kBins || row.mass(x[i]) < least) continue;
            atomicAdd(&shared.bins.count[bin], 1);
            if (window.shift == 0) continue;  // one value a bin
            const float share = exp2_approx((x[i] - logit_of(window.heaviest(bin))) * row.scale);
            const unsigned weight = __float2uint_rn(share * 0x1p26f);
            atomicAdd(&shared.bins.high[bin], weight >> 13);
            atomicAdd(&shared.bins.low[bin], weight & 0x1fff);
        }
    }
};

// A logit that the best tokens of k of this CTA's threads reach: the highest of 17 leading bits (sign, exponent, eight more).
__device__ inline float kth_best(float best, int k) {
    const unsigned mine = key_of(best, 0.f);
    unsigned key = 0;
    for (unsigned bit = 1u << 31; bit >> 15; bit >>= 1)
        if (__syncthreads_count(mine >= (key | bit)) >= k) key |= bit;
    return fmaxf(logit_of(key, 0.f), -INFINITY);  // below minus infinity there is no number
}

// The key from which tokens are kept: top-k among those min-p leaves, then top-p among those. `total` is the row's whole mass,
// `best` this thread's largest logit, `reached` one that top_k tokens reach.
__device__ inline unsigned find_cut(const Row& row, float best, int top_k, float top_p, float total, float reached, int vocab,
                                    Shared& shared) {
    if (top_k == 0 && top_p >= 1.f) return 0;
    // For top-p alone: tokens lighter than (1 - p) * total / V hold at most (1 - p) * total together, which it may leave out.
    const float lightest = row.min_mass > 0.f ? row.min_mass : top_k > 0 ? 0.f : (1.f - top_p) * total / vocab;
    float lowest = row.maximum + __log2f(fmaxf(0.999f * lightest, kLeastMass)) / row.scale;
    if (top_k > 0) lowest = fmaxf(lowest, reached);
    Search search(row, best, lowest, shared);
    unsigned key = 0;
#pragma unroll 1  // the search is large
    for (const bool by_count : {true, false}) {
        if (by_count ? top_k == 0 && !(row.min_mass > 0.f) : top_p >= 1.f) continue;
        const Cut cut = search.find(by_count && top_k > 0 ? Limit{top_k, INFINITY} : Limit{kNone, by_count ? INFINITY : top_p * total});
        key = max(key, cut.key), total = cut.through.sum;
    }
    return key;
}

}  // namespace nanopd
