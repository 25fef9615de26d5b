// TMA: boxes of a tensor copied to shared memory by one thread, with zeros for what lies outside the tensor.
#pragma once

#include <nanopd/bulk_copy.cuh>

namespace nanopd {

// A CUtensorMap made by the host (nanopd/kernels/tensor_map.py), passed by value as a __grid_constant__ parameter.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

__device__ inline void tma_prefetch(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies the box at the coordinates (innermost first) and counts its bytes, out-of-bounds ones included, on `barrier`.
__device__ inline void tma_load_3d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
        ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
        : "memory");
}

__device__ inline void tma_load_5d(void* shared, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2, int c3,
                                   int c4) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5, %6, %7}], [%2];"
        ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
}

}  // namespace nanopd
