// A cluster of CTAs that read and write each other's shared memory (sm_90 and up). With kClusterSize 1 a CTA is its own
// cluster, on every architecture.
#pragma once

namespace nanopd {

template <int kClusterSize>
struct Cluster {
    static __device__ __forceinline__ int rank() {
        if constexpr (kClusterSize == 1) return 0;
        int rank;
        asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
        return rank;
    }

    // The same variable in the shared memory of another CTA of the cluster.
    template <typename T>
    static __device__ __forceinline__ T* peer(T* mine, int rank) {
        if constexpr (kClusterSize == 1) return mine;
        T* theirs;
        asm volatile("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
        return theirs;
    }

    // All threads of all CTAs have come here, and see what the others wrote before.
    static __device__ __forceinline__ void sync() {
        arrive();
        wait();
    }
    static __device__ __forceinline__ void arrive() {
        if constexpr (kClusterSize > 1) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    }
    static __device__ __forceinline__ void wait() {
        if constexpr (kClusterSize == 1) {
            __syncthreads();
        } else {
            asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
        }
    }
};

}  // namespace nanopd
