// Tensor-core building blocks of one warp (sm_80). Lane = 4 g + t; matrices of 16-bit elements, float accumulators.
//
//   mma.m16n8k16, C += A B:  A [16, 16]  a0 = (row g, k 2t..)  a1 = (g + 8, 2t..)  a2 = (g, 2t + 8..)  a3 = (g + 8, 2t + 8..)
//                            B [16, 8]   b0 = (k 2t.., column g)  b1 = (k 2t + 8.., column g)
//                            C [16, 8]   c0 c1 = (row g, columns 2t, 2t + 1)  c2 c3 = (row g + 8, the same columns)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace nanopd {

template <typename Scalar>
__device__ __forceinline__ void mma_m16n8k16(float* c, const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(float* c, const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float* c, const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices; lanes 8i .. 8i + 7 hold the shared addresses of the rows of matrix i, which lands in out[i].
__device__ __forceinline__ void ldmatrix_x4(unsigned (&out)[4], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_transposed(unsigned (&out)[4], unsigned row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(row)
                 : "memory");
}

// Transposes the 8x8 matrix of which lane 4g + t holds row g, columns 2t and 2t + 1.
__device__ __forceinline__ unsigned movmatrix_transposed(unsigned pair) {
    unsigned transposed;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
    return transposed;
}

}  // namespace nanopd
