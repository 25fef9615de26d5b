// Bulk copies from global to shared memory that complete on an mbarrier (sm_90 and up): one thread moves kilobytes without
// spending registers, and a ring of such stages keeps memory busy however the consumers are scheduled.
#pragma once

#include <nanopd/cp_async.cuh>

namespace nanopd {

using Barrier = unsigned long long;

__device__ inline void barrier_init(Barrier* barrier, int num_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine; before the __syncthreads() that shows them to the other threads.
__device__ inline void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and lets the phase end only after `num_bytes` more were copied.
__device__ inline void barrier_arrive_expect(Barrier* barrier, int num_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_bytes) : "memory");
}

// Waits for the end of the phase of the given parity: 0 for the first, 1 for the second, 0 for the third ... On a fresh
// barrier parity 1 counts as ended, which lets a producer start on empty stages.
__device__ inline void barrier_wait(Barrier* barrier, unsigned parity) {
    unsigned ended = 0;
    while (!ended)
        asm volatile(
            "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
            : "=r"(ended)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
}

// Addresses and size are multiples of 16 bytes.
__device__ inline void bulk_copy(void* shared, const void* global, int num_bytes, Barrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(shared)),
                 "l"(global), "r"(num_bytes), "r"(shared_address(barrier))
                 : "memory");
}

__device__ inline void bulk_prefetch_l2(const void* global, int num_bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(num_bytes) : "memory");
}

}  // namespace nanopd
