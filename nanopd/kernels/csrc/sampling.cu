// One token per row of logits: greedy, or drawn after min-p, top-k and top-p, without sorting.
//
// Macros: LOGIT (__nv_bfloat16 | __half | float), CLUSTER (CTAs a row), THREADS, MIN_CTAS (an SM), GREEDY_ONLY (0 | 1),
//         HAS_FILTERS (0 | 1).
//
// A cluster of CTAs takes a row, each CTA a contiguous slice, each warp a contiguous run of it. The first look at the row finds
// the maximum and, with a running maximum per thread, the mass of every run; later looks are only where something can be found.
// Equal logits stand or fall together, so the filters keep "logit at least a cut" (sampling_cut.cuh).
// The draw is by inversion in token order: which CTA, which warp's run, which thread's piece of it, which token.
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
    long long row_stride;
    int vocab;                 // at most 2^18
    int slice;                 // tokens a CTA, a multiple of kGroup
    int top_k_is_64_bit, out_is_64_bit;
};

// ---- the first look ----

struct Best {  // of a thread's tokens
    float logit = -INFINITY;
    float sum = 0.f;  // of exp((logit - best) / temperature)
    int group = -1;   // the first that holds it,
    Raw raw;          // and what that group holds

    __device__ void add(int at, const Raw& next, float scale) {
        const float highest = next.highest();
        if (highest > logit) {
            if constexpr (!GREEDY_ONLY) sum *= exp2_approx((logit - highest) * scale);
            logit = highest, group = at, raw = next;
        }
        if constexpr (GREEDY_ONLY) return;
        if (group < 0) return;  // all are minus infinity so far
        float x[kGroup];
        next.unpack(x);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) sum += exp2_approx((x[i] - logit) * scale);
    }
    __device__ int token(const Slice& slice) const {
        int token = kNone;
        if (group < 0) return token;
        float x[kGroup];
        raw.unpack(x);
#pragma unroll
        for (int i = kGroup - 1; i >= 0; --i)
            if (x[i] == logit) token = slice.first + group * kGroup + i;
        return token;
    }
};

__device__ inline Best first_look(const Slice& slice, float scale) {
    Best best;
    slice.look_at_run([&](int group, const Raw& raw) { best.add(group, raw, scale); });
    return best;
}

// The sum under a higher maximum.
__device__ inline float rebased(float sum, float maximum, float higher, float scale) {
    return sum > 0.f ? sum * exp2_approx((maximum - higher) * scale) : 0.f;
}

// The lanes' peaks as one, in every lane.
__device__ inline Peak joined(const Peak& mine, float scale) {
    Peak all = Peak::none();
    all.maximum = logit_of(__reduce_max_sync(kFullWarp, key_of(mine.maximum, 0.f)), 0.f);
    all.token = __reduce_min_sync(kFullWarp, mine.maximum == all.maximum ? mine.token : kNone);
    if constexpr (!GREEDY_ONLY) all.sum = lane_group_sum<32>(rebased(mine.sum, mine.maximum, all.maximum, scale));
    if constexpr (HAS_FILTERS) all.reached = logit_of(__reduce_min_sync(kFullWarp, key_of(mine.reached, 0.f)), 0.f);
    return all;
}

// From threads to warps to this CTA.
__device__ inline Peak cta_peak(const Best& best, const Slice& slice, float scale, int top_k, Shared& shared) {
    const int lane = threadIdx.x % 32;
    const Peak mine = joined({best.logit, best.token(slice), best.sum, INFINITY}, scale);
    if (lane == 0) shared.warp_peaks[threadIdx.x / 32] = mine;
    __syncthreads();
    Peak peak = joined(lane < kWarps ? shared.warp_peaks[lane] : Peak::none(), scale);
    if constexpr (HAS_FILTERS) {
        const int share = (top_k + kCtas - 1) / kCtas;
        if (top_k > 0) peak.reached = share <= kThreads ? kth_best(best.logit, share) : -INFINITY;
    }
    return peak;
}

// ---- the draw ----

// The kept mass of each token of a group.
__device__ inline void kept_masses(const Row& row, unsigned cut, const Raw& raw, float (&mass)[kGroup]) {
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

// The kept mass of every warp's run and every CTA's slice: from the first look where all is kept, else by another one, of the
// threads whose best token is kept.
__device__ inline void sum_runs(const Row& row, unsigned cut, float best, Shared& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (cut == 0 && !(row.min_mass > 0.f)) {
        const Peak& run = shared.warp_peaks[warp];
        if (lane == 0) shared.run_sums[warp] = rebased(run.sum, run.maximum, row.maximum, row.scale);
        if (threadIdx.x < kCtas) {
            const Peak& slice = shared.cta_peaks[threadIdx.x];
            shared.cta_sums[threadIdx.x] = rebased(slice.sum, slice.maximum, row.maximum, row.scale);
        }
        __syncthreads();
        return;
    }
    float sum = 0.f;
    const bool keeps_any = row.mass(best) >= row.min_mass && (cut == 0 || best >= logit_of(cut));
    row.slice.look_at_shares(keeps_any, [&](int, const Raw& raw) {
        float mass[kGroup];
        kept_masses(row, cut, raw, mass);
#pragma unroll
        for (int i = 0; i < kGroup; ++i) sum += mass[i];
    });
    sum = lane_group_sum<32>(sum);
    if (lane == 0) shared.run_sums[warp] = sum;
    __syncthreads();
    publish(shared.cta_sums, lane_group_sum<32>(lane < kWarps ? shared.run_sums[lane] : 0.f));
    RowCluster::sync();
}

struct Run {
    int index;     // -1: none
    float before;  // mass kept before it
};

// Of the runs whose masses the lanes hold, the first whose end lies past `target`; if rounding lets none do so, the last with
// any mass.
__device__ inline Run pick_run(float mass, float target, float before) {
    const float upto = lane_scan(mass);
    const unsigned with_mass = __ballot_sync(kFullWarp, mass > 0.f);
    const unsigned hits = __ballot_sync(kFullWarp, mass > 0.f && before + upto > target);
    const int index = hits ? __ffs(hits) - 1 : 31 - __clz(with_mass);
    const float earlier = __shfl_sync(kFullWarp, upto, max(index - 1, 0));
    return {index, index > 0 ? before + earlier : before};
}

// A thread's piece of the run that is drawn from.
struct Piece {
    const Row& row;
    unsigned cut;
    int begin, end;  // groups

    __device__ float mass() const {
        float sum = 0.f;
        row.slice.look<4>(begin, end, 1, [&](int, const Raw& raw) {
            float mass[kGroup];
            kept_masses(row, cut, raw, mass);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) sum += mass[i];
        });
        return sum;
    }

    // The token within the slice by which the mass kept passes `target`, or the last kept one.
    __device__ int token(float target, float before) const {
        int token = -1;
        row.slice.look<4>(begin, end, 1, [&](int group, const Raw& raw) {
            float mass[kGroup];
            kept_masses(row, cut, raw, mass);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                if (before > target || !(mass[i] > 0.f)) continue;
                token = group * kGroup + i;
                before += mass[i];
            }
        });
        return token;
    }
};

// Every CTA of the cluster calls; the token within the slice in the thread that is to report it, -1 in all others.
__device__ inline int draw(const Row& row, unsigned cut, float best, float uniform, Shared& shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    sum_runs(row, cut, best, shared);
    const float cta_sum = lane < kCtas ? shared.cta_sums[lane] : 0.f;
    const float target = uniform * lane_group_sum<32>(cta_sum);
    Run run = pick_run(cta_sum, target, 0.f);
    if (run.index != RowCluster::rank()) return -1;
    run = pick_run(lane < kWarps ? shared.run_sums[lane] : 0.f, target, run.before);
    if (run.index < 0) return -1;
    // All threads share that run, so that none has a long way to walk alone.
    const int first_group = run.index * row.slice.run_groups;
    const int end_group = min(first_group + row.slice.run_groups, row.slice.num_groups());
    const int groups = (row.slice.run_groups + kThreads - 1) / kThreads;
    const int begin = min(first_group + static_cast<int>(threadIdx.x) * groups, end_group);
    const Piece piece = {row, cut, begin, min(begin + groups, end_group)};
    const float mass = piece.mass(), warp_mass = lane_group_sum<32>(mass);
    if (lane == 0) shared.piece_sums[warp] = warp_mass;
    __syncthreads();
    run = pick_run(lane < kWarps ? shared.piece_sums[lane] : 0.f, target, run.before);
    if (run.index != warp) return -1;
    run = pick_run(mass, target, run.before);
    return run.index == lane ? piece.token(target, run.before) : -1;
}

// ---- the kernel ----

__device__ inline Slice my_slice(const Params& p, int index) {
    Slice slice;
    slice.first = RowCluster::rank() * p.slice;
    slice.length = max(0, min(p.slice, p.vocab - slice.first));
    slice.logits = p.logits + index * p.row_stride + slice.first;
    slice.aligned = reinterpret_cast<unsigned long long>(slice.logits) % 16 == 0;
    slice.run_groups = (slice.num_groups() + 32 * kWarps - 1) / (32 * kWarps) * 32;
    slice.first_group = min(static_cast<int>(threadIdx.x) / 32 * slice.run_groups, slice.num_groups());
    slice.end_group = min(slice.first_group + slice.run_groups, slice.num_groups());
    return slice;
}

// 0 where top-k is off or keeps all.
__device__ inline int read_top_k(const Params& p, int index) {
    const long long k = p.top_k_is_64_bit ? static_cast<const long long*>(p.top_k)[index] : static_cast<const int*>(p.top_k)[index];
    return k <= 0 || k >= p.vocab ? 0 : static_cast<int>(k);
}

__device__ inline void write_token(const Params& p, int index, int token) {
    if (p.out_is_64_bit) {
        static_cast<long long*>(p.out)[index] = token;
    } else {
        static_cast<int*>(p.out)[index] = token;
    }
}

// Grid: (B * CLUSTER, 1, 1) in clusters of CLUSTER.
extern "C" __global__ void __launch_bounds__(kThreads, MIN_CTAS) sampling_kernel(const Params p) {
    __shared__ Shared shared;
    RowCluster::arrive();  // this CTA runs: from the wait on, the others may write to its shared memory
    wait_for_predecessor();
    const int index = blockIdx.x / kCtas;
    const float temperature = GREEDY_ONLY ? 0.f : p.temperature[index];
    const bool is_greedy = !(temperature > 0.f);
    const int top_k = HAS_FILTERS ? read_top_k(p, index) : 0;
    Row row;
    row.slice = my_slice(p, index);
    row.scale = is_greedy ? kLog2e : kLog2e / temperature;

    const Best best = first_look(row.slice, row.scale);
    let_successor_start();  // earlier, its CTAs would take the places of ours unevenly: a quarter slower at 256 rows
    const Peak mine = cta_peak(best, row.slice, row.scale, top_k, shared);
    RowCluster::wait();
    publish(shared.cta_peaks, mine);
    RowCluster::sync();
    const Peak peak = joined(threadIdx.x % 32 < kCtas ? shared.cta_peaks[threadIdx.x % 32] : Peak::none(), row.scale);
    if (is_greedy || peak.token == kNone) {  // none: every token is masked out
        if (threadIdx.x == 0 && RowCluster::rank() == 0) write_token(p, index, peak.token == kNone ? 0 : peak.token);
        return;
    }
    if constexpr (!GREEDY_ONLY) {
        row.maximum = peak.maximum;
        row.min_mass = HAS_FILTERS ? p.min_p[index] : 0.f;
        unsigned cut = 0;
        if constexpr (HAS_FILTERS)
            cut = find_cut(row, best.logit, top_k, p.top_p[index], peak.sum, peak.reached, p.vocab, shared);
        const int token = draw(row, cut, best.logit, p.uniform[index], shared);
        if (token >= 0) write_token(p, index, row.slice.first + token);
    }
}
