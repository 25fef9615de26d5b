// CUDA threads as fibers on one host thread. See README.md.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
using std::max;
using std::min;

namespace host {

// Threads that wait for one another: a warp, a CTA, a cluster.
struct Group {
    int size = 0, arrived = 0, generation = 0;
};

struct Fiber {
    ucontext_t context;
    int thread, cta;
    bool done = false;
    Group* waits_for = nullptr;
    int generation = 0;      // of that group when the wait began
    unsigned long long slot;  // what this thread shows to the others of its group
};

inline std::vector<Fiber> fibers;
inline Fiber* current;
inline ucontext_t scheduler;
inline int num_threads;
inline std::vector<std::vector<char>> shared_memory, stacks;  // by CTA, by fiber
inline std::vector<Group> warps, ctas;
inline Group cluster;

inline void barrier(Group& group) {
    const int generation = group.generation;
    if (++group.arrived == group.size) {
        group.arrived = 0, ++group.generation;
        return;
    }
    current->waits_for = &group, current->generation = generation;
    swapcontext(&current->context, &scheduler);
    current->waits_for = nullptr;
}

inline int lane() { return current->thread % 32; }
inline int warp() { return (current->cta * num_threads + current->thread) / 32; }

template <typename T> T shown_by(int lane) {
    T value;
    std::memcpy(&value, &fibers[warp() * 32 + lane].slot, sizeof(T));
    return value;
}

// All lanes show x, then each computes its result from what they show.
template <typename T, typename Result> auto warp_wide(T x, const Result& result) {
    std::memcpy(&current->slot, &x, sizeof(T));
    barrier(warps[warp()]);
    auto value = result();
    barrier(warps[warp()]);
    return value;
}

template <typename T, typename Reduce> T reduced(T x, const Reduce& reduce) {
    return warp_wide(x, [&] {
        T all = shown_by<T>(0);
        for (int l = 1; l < 32; ++l) all = reduce(all, shown_by<T>(l));
        return all;
    });
}

inline std::function<void()> kernel;
inline void fiber_main() {
    kernel();
    current->done = true;
    swapcontext(&current->context, &scheduler);
}

// Runs one cluster; false if its threads wait for one another for ever.
inline bool run_cluster(int num_ctas, int threads, std::size_t shared_bytes, std::function<void()> body) {
    constexpr std::size_t kStack = 64 * 1024;
    kernel = std::move(body), num_threads = threads;
    const int total = num_ctas * threads;
    fibers.assign(total, {}), warps.assign(total / 32, {32}), ctas.assign(num_ctas, {threads}), cluster = {total};
    shared_memory.assign(num_ctas, std::vector<char>(shared_bytes, static_cast<char>(0xcd)));
    stacks.resize(total);
    for (int i = 0; i < total; ++i) {
        stacks[i].resize(kStack);
        Fiber& fiber = fibers[i];
        fiber.thread = i % threads, fiber.cta = i / threads;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[i].data(), fiber.context.uc_stack.ss_size = kStack;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (int left = total; left > 0;) {
        bool moved = false;
        for (Fiber& fiber : fibers) {
            if (fiber.done || (fiber.waits_for && fiber.waits_for->generation == fiber.generation)) continue;
            current = &fiber, moved = true;
            swapcontext(&scheduler, &fiber.context);
            left -= fiber.done;
        }
        if (!moved) return false;
    }
    return true;
}

struct Index { unsigned x; };

}  // namespace host

#define threadIdx (host::Index{static_cast<unsigned>(host::current->thread)})
#define blockIdx (host::Index{static_cast<unsigned>(host::current->cta)})

template <typename T> T __shfl_xor_sync(unsigned, T x, int mask) {
    return host::warp_wide(x, [&] { return host::shown_by<T>(host::lane() ^ mask); });
}
template <typename T> T __shfl_up_sync(unsigned, T x, int distance) {
    return host::warp_wide(x, [&] { return host::lane() < distance ? x : host::shown_by<T>(host::lane() - distance); });
}
template <typename T> T __shfl_sync(unsigned, T x, int lane) {
    return host::warp_wide(x, [&] { return host::shown_by<T>(lane % 32); });
}
template <typename T> T __reduce_max_sync(unsigned, T x) {
    return host::reduced(x, [](T a, T b) { return max(a, b); });
}
template <typename T> T __reduce_min_sync(unsigned, T x) {
    return host::reduced(x, [](T a, T b) { return min(a, b); });
}
inline unsigned __ballot_sync(unsigned, bool x) {
    return host::reduced(x ? 1u << host::lane() : 0u, [](unsigned a, unsigned b) { return a | b; });
}
inline void __syncthreads() { host::barrier(host::ctas[host::current->cta]); }
inline int __syncthreads_count(bool x) {
    host::current->slot = x;
    __syncthreads();
    int count = 0;
    for (int t = 0; t < host::num_threads; ++t) count += host::fibers[host::current->cta * host::num_threads + t].slot != 0;
    __syncthreads();
    return count;
}
template <typename T, typename U> T atomicAdd(T* to, U x) {
    const T before = *to;
    *to = before + static_cast<T>(x);
    return before;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
template <typename To, typename From> To bits_as(From x) {
    To to;
    std::memcpy(&to, &x, sizeof(To));
    return to;
}
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline unsigned __float2uint_rn(float x) { return x <= 0 ? 0u : static_cast<unsigned>(std::llrint(x)); }
inline float __log2f(float x) { return std::log2(x); }
