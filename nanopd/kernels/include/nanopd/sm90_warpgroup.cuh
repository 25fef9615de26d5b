// Warp specialisation on Hopper: named barriers between some of a CTA's warps, and registers moved between warpgroups.
#pragma once

namespace nanopd {

// Barrier `id` (1 to 15; 0 is __syncthreads) opens when num_threads have arrived; sync waits for that, arrive does not.
__device__ inline void named_barrier_sync(int id, int num_threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

__device__ inline void named_barrier_arrive(int id, int num_threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// Orders this thread's ordinary writes to shared memory before later reads by wgmma and the copy engine.
__device__ inline void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Registers a thread may use from here on; every warp of the warpgroup executes it.
template <int kCount> __device__ inline void release_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

template <int kCount> __device__ inline void claim_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace nanopd
