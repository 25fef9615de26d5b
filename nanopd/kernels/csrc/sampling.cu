// One token per row of logits: greedy, or drawn after min-p, top-k and top-p, without sorting.
//
// Macros: LOGIT (__nv_bfloat16 | __half | float), CLUSTER (CTAs a row), THREADS, MIN_CTAS (an SM), SLICE_IN_SHARED (0 | 1),
//         GREEDY_ONLY (0 | 1), HAS_FILTERS (0 | 1).
//
// A cluster of CTAs takes a row, each CTA a contiguous slice, each warp a contiguous run of it. The row is read from memory once:
// that pass finds the maximum and, with a running maximum per thread, the mass of every run; the slice stays in shared memory for
// what follows. Equal logits stand or fall together, so the filters keep "logit at least a cut" (sampling_cut.cuh).
// The draw is by inversion in token order: which CTA, which warp's run, which piece of it, which token.
// All sums are taken in a fixed order: equal inputs give equal tokens.
#include <nanopd/pdl.cuh>
#include <nanopd/sampling_cut.cuh>

using namespace nanopd;

struct Params {
    const LOGIT* logits;       // [B, V], rows row_stride apart
    const float* temperature;  // [B], 0 = greedy
    const void* top_k;         // [B] int32 or int64, 0 = off
    const float* top_p;        // [B], 1 = off
    const float* min_p;        // [B], 0 = off
    const float* uniform;      // [B] in [0, 1)
    void* out;                 // [B] int32 or int64
    float* logprob;            // [B] or null: log softmax of the raw logits at the token
    long long row_stride;
    int vocab;
    int slice;                 // tokens a CTA, a multiple of kGroup
    int top_k_is_64_bit, out_is_64_bit;
};

// ---- the pass over memory ----

struct Best {  // of a thread's tokens
    float logit = -INFINITY;
    int group = -1;   // the first that holds it
    float sum = 0.f;  // of exp((logit - best) / temperature)
};

__device__ inline Best read_run(const Slice& slice, float scale) {
    constexpr int kBatch = 4;  // loads in flight
    Best best;
    for (int base = slice.first_group + threadIdx.x % 32; base < slice.end_group; base += kBatch * 32) {
        Raw raw[kBatch];
#pragma unroll
        for (int b = 0; b < kBatch; ++b)
            if (slice.is_whole(base + b * 32)) raw[b] = Raw::load(slice.global + (base + b * 32) * kGroup);
#pragma unroll
        for (int b = 0; b < kBatch; ++b) {
            const int group = base + b * 32;
            if (group >= slice.end_group) break;
            if (!slice.is_whole(group)) raw[b] = slice.load_partial(group);
            if constexpr (SLICE_IN_SHARED) raw[b].store(slice.shared + group * kGroup);
            const float highest = raw[b].highest();
            if (highest > best.logit) {
                best.sum *= exp2_approx((best.logit - highest) * scale);
                best.logit = highest, best.group = group;
            }
            if constexpr (GREEDY_ONLY) continue;
            if (best.group < 0) continue;  // all are minus infinity so far
            float x[kGroup];
            raw[b].unpack(x);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) best.sum += exp2_approx((x[i] - best.logit) * scale);
        }
    }
    return best;
}

// The sum under a higher maximum.
__device__ inline float rebased(float sum, float maximum, float higher, float scale) {
    return sum > 0.f ? sum * exp2_approx((maximum - higher) * scale) : 0.f;
}

// From threads to warps to this CTA.
__device__ inline Peak cta_peak(const Best& best, float scale, Shared& shared) {
    Peak peak = {best.logit, 0.f, best.logit};
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        peak.maximum = fmaxf(peak.maximum, __shfl_xor_sync(0xffffffff, peak.maximum, distance));
        peak.reached = fminf(peak.reached, __shfl_xor_sync(0xffffffff, peak.reached, distance));
    }
    peak.sum = lane_group_sum<32>(rebased(best.sum, best.logit, peak.maximum, scale));
    if (threadIdx.x % 32 == 0) shared.warp_peaks[threadIdx.x / 32] = peak;
    __syncthreads();
    peak = {-INFINITY, 0.f, INFINITY};
#pragma unroll 8
    for (int w = 0; w < kWarps; ++w) {
        peak.maximum = fmaxf(peak.maximum, shared.warp_peaks[w].maximum);
        peak.reached = fminf(peak.reached, shared.warp_peaks[w].reached);
    }
#pragma unroll 8
    for (int w = 0; w < kWarps; ++w)
        peak.sum += rebased(shared.warp_peaks[w].sum, shared.warp_peaks[w].maximum, peak.maximum, scale);
    return peak;
}

// ---- greedy ----

// The lowest token that has the maximum, within the slice, in the thread that is to report it; -1 in all others.
__device__ inline int first_maximum(const Slice& slice, const Best& best, float maximum, Shared& shared) {
    int token = kNone;
    if (best.logit == maximum && best.group >= 0) {
        float x[kGroup];
        slice.load(best.group).unpack(x);
#pragma unroll
        for (int i = kGroup - 1; i >= 0; --i)
            if (x[i] == maximum) token = slice.first + best.group * kGroup + i;
    }
    token = cta_min(token, shared);
    publish(shared.cta_ints, token);
    RowCluster::sync();
    for (int r = 0; r < kCtas; ++r) token = min(token, shared.cta_ints[r]);
    const bool is_mine = token >= slice.first && token < slice.first + slice.length;
    return is_mine && threadIdx.x == 0 ? token - slice.first : -1;
}

// ---- the draw ----

// The kept mass of each token of a group.
__device__ inline void kept_masses(const Row& row, unsigned cut, int group, float (&mass)[kGroup]) {
    const Raw raw = row.slice.load(group);
    if (HAS_FILTERS && raw.highest() < logit_of(cut)) {
#pragma unroll
        for (int i = 0; i < kGroup; ++i) mass[i] = 0.f;
        return;
    }
    float x[kGroup];
    raw.unpack(x);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
        mass[i] = row.mass(x[i]);
        if (HAS_FILTERS && (key_of(x[i]) < cut || mass[i] < row.min_mass)) mass[i] = 0.f;
    }
}

// Of groups [first_group, end_group), summed by a full warp.
__device__ inline float kept_mass(const Row& row, unsigned cut, int first_group, int end_group) {
    float sum = 0.f;
    for (int group = first_group + threadIdx.x % 32; group < end_group; group += 32) {
        float mass[kGroup];
        kept_masses(row, cut, group, mass);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) sum += mass[i];
    }
    return lane_group_sum<32>(sum);
}

// The kept mass of every warp's run and every CTA's slice: from the first pass where all is kept, else by another one.
__device__ inline void sum_runs(const Row& row, unsigned cut, Shared& shared) {
    if (cut == 0 && !(row.min_mass > 0.f)) {
        __syncthreads();
        if (threadIdx.x < kWarps) {
            const Peak& peak = shared.warp_peaks[threadIdx.x];
            shared.run_sums[threadIdx.x] = rebased(peak.sum, peak.maximum, row.maximum, row.scale);
        }
        if (threadIdx.x < kCtas) {
            const Peak& peak = shared.cta_peaks[threadIdx.x];
            shared.cta_sums[threadIdx.x] = rebased(peak.sum, peak.maximum, row.maximum, row.scale);
        }
        __syncthreads();
        return;
    }
    const float sum = kept_mass(row, cut, row.slice.first_group, row.slice.end_group);
    if (threadIdx.x % 32 == 0) shared.run_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    float cta = 0.f;
#pragma unroll 8
    for (int w = 0; w < kWarps; ++w) cta += shared.run_sums[w];
    publish(shared.cta_sums, cta);
    RowCluster::sync();
}

struct Run {
    int index;
    float before;  // mass kept before it
};

// The first of n runs whose mass reaches past `target`; if rounding lets none do so, the last with any mass; -1 if none has.
__device__ inline Run pick_run(const float* masses, int n, float target, float before) {
    Run picked = {-1, 0.f};
    for (int i = 0; i < n; ++i) {
        if (masses[i] > 0.f) picked = {i, before};
        before += masses[i];
        if (before > target) break;
    }
    return picked;
}

// The token within the slice, from groups [first_group, end_group); a full warp calls.
__device__ inline int pick_token(const Row& row, unsigned cut, float target, float before, int first_group, int end_group) {
    const int lane = threadIdx.x % 32;
    int token = -1;  // the last one kept so far
    for (int base = first_group; base < end_group; base += 32) {
        const int group = base + lane;
        float mass[kGroup] = {};
        if (group < end_group) kept_masses(row, cut, group, mass);
        float upto = 0.f;
#pragma unroll
        for (int i = 0; i < kGroup; ++i) upto += mass[i];
        const bool has_mass = upto > 0.f;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const float earlier = __shfl_up_sync(0xffffffff, upto, distance);
            if (lane >= distance) upto += earlier;
        }
        const unsigned hits = __ballot_sync(0xffffffff, has_mass && before + upto > target);
        const bool is_hit = hits && lane == __ffs(hits) - 1;
        float reached = __shfl_up_sync(0xffffffff, upto, 1);
        reached = lane ? before + reached : before;
        bool done = false;
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
            if (done || !(mass[i] > 0.f)) continue;
            token = group * kGroup + i;
            reached += mass[i];
            done = is_hit && reached > target;
        }
        if (hits) return __shfl_sync(0xffffffff, token, __ffs(hits) - 1);
        before += __shfl_sync(0xffffffff, upto, 31);
    }
    return __reduce_max_sync(0xffffffff, token);
}

// Every CTA of the cluster calls; the token within the slice in the thread that is to report it, -1 in all others.
__device__ inline int draw(const Row& row, unsigned cut, float uniform, Shared& shared) {
    sum_runs(row, cut, shared);
    float total = 0.f;
    for (int r = 0; r < kCtas; ++r) total += shared.cta_sums[r];
    const float target = uniform * total;
    Run run = pick_run(shared.cta_sums, kCtas, target, 0.f);
    if (run.index != RowCluster::rank()) return -1;
    run = pick_run(shared.run_sums, kWarps, target, run.before);
    if (run.index < 0) return -1;
    // All warps share that run, so that none has a long way to walk alone.
    const int first_group = run.index * row.slice.run_groups;
    const int num_groups = min(row.slice.run_groups, row.slice.num_groups() - first_group);
    const int piece = (num_groups + kWarps - 1) / kWarps;
    const int warp = threadIdx.x / 32;
    const int begin = first_group + min(warp * piece, num_groups), end = first_group + min((warp + 1) * piece, num_groups);
    const float sum = kept_mass(row, cut, begin, end);
    if (threadIdx.x % 32 == 0) shared.piece_sums[warp] = sum;
    __syncthreads();
    run = pick_run(shared.piece_sums, kWarps, target, run.before);
    if (run.index != warp) return -1;
    const int token = pick_token(row, cut, target, run.before, begin, end);
    return threadIdx.x % 32 == 0 ? token : -1;
}

// ---- the kernel ----

__device__ inline Slice my_slice(const Params& p, int index, LOGIT* shared) {
    Slice slice;
    slice.first = RowCluster::rank() * p.slice;
    slice.length = max(0, min(p.slice, p.vocab - slice.first));
    slice.global = p.logits + index * p.row_stride + slice.first;
    slice.shared = shared;
    slice.aligned = reinterpret_cast<unsigned long long>(slice.global) % 16 == 0;
    slice.run_groups = (slice.num_groups() + 32 * kWarps - 1) / (32 * kWarps) * 32;
    slice.first_group = min(static_cast<int>(threadIdx.x) / 32 * slice.run_groups, slice.num_groups());
    slice.end_group = min(slice.first_group + slice.run_groups, slice.num_groups());
    return slice;
}

__device__ inline void write_token(const Params& p, int index, int token) {
    if (p.out_is_64_bit) {
        static_cast<long long*>(p.out)[index] = token;
    } else {
        static_cast<int*>(p.out)[index] = token;
    }
}

// Grid: (B * CLUSTER, 1, 1) in clusters of CLUSTER. Dynamic shared memory: the slice, if SLICE_IN_SHARED, then Shared.
extern "C" __global__ void __launch_bounds__(kThreads, MIN_CTAS) sampling_kernel(const Params p) {
    extern __shared__ __align__(16) char dynamic_shared[];
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared + (SLICE_IN_SHARED ? p.slice * sizeof(LOGIT) : 0));
    RowCluster::arrive();  // this CTA runs: from the wait on, the others may write to its shared memory
    let_successor_start();
    wait_for_predecessor();
    const int index = blockIdx.x / kCtas;
    const float temperature = GREEDY_ONLY ? 0.f : p.temperature[index];
    const bool is_greedy = !(temperature > 0.f);
    Row row;
    row.slice = my_slice(p, index, reinterpret_cast<LOGIT*>(dynamic_shared));
    row.scale = is_greedy ? kLog2e : kLog2e / temperature;

    const Best best = read_run(row.slice, row.scale);
    const Peak mine = cta_peak(best, row.scale, shared);
    RowCluster::wait();
    publish(shared.cta_peaks, mine);
    RowCluster::sync();
    row.maximum = -INFINITY;
    float total = 0.f;
    for (int r = 0; r < kCtas; ++r) row.maximum = fmaxf(row.maximum, shared.cta_peaks[r].maximum);
    for (int r = 0; r < kCtas; ++r)
        total += rebased(shared.cta_peaks[r].sum, shared.cta_peaks[r].maximum, row.maximum, row.scale);
    if (!(row.maximum > -INFINITY)) {  // every token is masked out
        if (threadIdx.x == 0 && RowCluster::rank() == 0) {
            write_token(p, index, 0);
            if (p.logprob) p.logprob[index] = -INFINITY;
        }
        return;
    }

    float raw_sum = 1.f;
    if (p.logprob) {
        Row raw = row;
        raw.scale = kLog2e, raw.min_mass = 0.f;
        raw_sum = mass_from(raw, 0, shared).sum;
    }
    int token;
    if (is_greedy) {
        token = first_maximum(row.slice, best, row.maximum, shared);
    } else {
        row.min_mass = HAS_FILTERS ? p.min_p[index] : 0.f;
        unsigned cut = 0;
        if constexpr (HAS_FILTERS) {
            const long long top_k =
                p.top_k_is_64_bit ? static_cast<const long long*>(p.top_k)[index] : static_cast<const int*>(p.top_k)[index];
            cut = find_cut(row, best.logit, top_k, p.top_p[index], total, p.vocab, shared);
        }
        token = draw(row, cut, p.uniform[index], shared);
    }
    if (token < 0) return;
    write_token(p, index, row.slice.first + token);
    if (p.logprob) p.logprob[index] = static_cast<float>(row.slice.global[token]) - row.maximum - logf(raw_sum);
}
