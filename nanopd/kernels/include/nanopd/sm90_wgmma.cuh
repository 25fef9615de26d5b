// wgmma: products of 64 rows by a warpgroup of four warps; operands in shared memory (or A in registers), sums in
// registers.
//
// The instructions are asynchronous: fence, issue, commit, and touch neither operands nor sums before the wait. One warp's
// sums have the layout of mma.m16n8 (see online_softmax.cuh); warp w of the group holds rows 16w to 16w + 15.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <nanopd/cp_async.cuh>

namespace nanopd {

// Operands in shared memory are made of atoms of 8 rows of 64 columns: 128 bytes a row, swizzled as TMA writes them.
constexpr int kAtomRows = 8, kAtomColumns = 64, kAtomRowBytes = 128, kAtomBytes = 1024;

// Descriptor of an operand; `shared` starts at an atom, `rows_apart` bytes lie between atoms of successive rows, and
// `columns_apart` between atoms of successive columns. Two uses:
// - columns run along the inner dimension (K-major, as Q and K): 16 further along it is 32 bytes further into each row, and
//   columns_apart is not used, since an instruction reads 16 columns;
// - rows run along the inner dimension (MN-major, as V): 16 further along it is two atoms of rows further.
__device__ inline unsigned long long operand_descriptor(const void* shared, unsigned rows_apart, unsigned columns_apart = 16) {
    constexpr unsigned long long kSwizzle128 = 1ull << 62;
    const unsigned long long address = (shared_address(shared) & 0x3ffff) >> 4;
    return kSwizzle128 | static_cast<unsigned long long>(rows_apart >> 4) << 32 |
           static_cast<unsigned long long>(columns_apart >> 4) << 16 | address;
}

// The same operand some bytes further on. The address is in the low word, and no carry leaves it.
__device__ inline unsigned long long advanced(unsigned long long descriptor, unsigned bytes) {
    return (descriptor & 0xffffffff00000000ull) | (static_cast<unsigned>(descriptor) + (bytes >> 4));
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most kPending of the latest committed groups are unfinished.
template <int kPending> __device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Reads and writes of these registers stay on their side of this point: the compiler does not know that wgmma is
// asynchronous.
template <int kSize> __device__ inline void pin_registers(float (&x)[kSize]) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

// d (64 x kN) = a (64 x 16) b (+ d if accumulate); kN / 2 sums a lane.
// wgmma_shared: a and b in shared memory, b K-major: [kN][16]. wgmma_registers: a in registers, b MN-major: [16][kN].
template <typename Scalar, int kN>
__device__ inline void wgmma_shared(float* d, unsigned long long a, unsigned long long b, bool accumulate);
template <typename Scalar, int kN>
__device__ inline void wgmma_registers(float* d, const unsigned (&a)[4], unsigned long long b, bool accumulate);

#define NANOPD_SUMS_16(i)                                                                                               \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),         \
        "+f"(d[i + 7]), "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]),              \
        "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define NANOPD_SUMS_32 NANOPD_SUMS_16(0)
#define NANOPD_SUMS_64 NANOPD_SUMS_32, NANOPD_SUMS_16(16)
#define NANOPD_SUMS_96 NANOPD_SUMS_64, NANOPD_SUMS_16(32)
#define NANOPD_SUMS_128 NANOPD_SUMS_96, NANOPD_SUMS_16(48)
#define NANOPD_SUMS_160 NANOPD_SUMS_128, NANOPD_SUMS_16(64)
#define NANOPD_SUMS_192 NANOPD_SUMS_160, NANOPD_SUMS_16(80)
#define NANOPD_TEXT_32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NANOPD_TEXT_64 NANOPD_TEXT_32                                                                                   \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NANOPD_TEXT_96 NANOPD_TEXT_64                                                                                   \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define NANOPD_TEXT_128 NANOPD_TEXT_96                                                                                  \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NANOPD_TEXT_160 NANOPD_TEXT_128                                                                                 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define NANOPD_TEXT_192 NANOPD_TEXT_160                                                                                 \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"

// Operand numbers follow the sums: a, b, accumulate.
#define NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, N, TEXT, SUMS, A0, A1, A2, A3, A4, A5)                                      \
    template <>                                                                                                         \
    __device__ inline void wgmma_shared<SCALAR_TYPE, N>(float* d, unsigned long long a, unsigned long long b,           \
                                                        bool accumulate) {                                              \
        asm volatile("{.reg .pred p; setp.ne.b32 p, " A2 ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32."         \
                     PTX_TYPE "." PTX_TYPE " {" TEXT "}, " A0 ", " A1 ", p, 1, 1, 0, 0;}"                               \
                     : SUMS : "l"(a), "l"(b), "r"(int(accumulate)));                                                    \
    }                                                                                                                   \
    template <>                                                                                                         \
    __device__ inline void wgmma_registers<SCALAR_TYPE, N>(float* d, const unsigned (&a)[4], unsigned long long b,      \
                                                           bool accumulate) {                                           \
        asm volatile("{.reg .pred p; setp.ne.b32 p, " A5 ", 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32."         \
                     PTX_TYPE "." PTX_TYPE " {" TEXT "}, {" A0 ", " A1 ", " A2 ", " A3 "}, " A4 ", p, 1, 1, 1;}"        \
                     : SUMS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));                \
    }
#define NANOPD_WGMMA_32(SCALAR_TYPE, PTX_TYPE)                                                                          \
    NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, 32, NANOPD_TEXT_32, NANOPD_SUMS_32, "%16", "%17", "%18", "%19", "%20", "%21")
#define NANOPD_WGMMA_64(SCALAR_TYPE, PTX_TYPE)                                                                          \
    NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, 64, NANOPD_TEXT_64, NANOPD_SUMS_64, "%32", "%33", "%34", "%35", "%36", "%37")
#define NANOPD_WGMMA_96(SCALAR_TYPE, PTX_TYPE)                                                                          \
    NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, 96, NANOPD_TEXT_96, NANOPD_SUMS_96, "%48", "%49", "%50", "%51", "%52", "%53")
#define NANOPD_WGMMA_128(SCALAR_TYPE, PTX_TYPE)                                                                         \
    NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, 128, NANOPD_TEXT_128, NANOPD_SUMS_128, "%64", "%65", "%66", "%67", "%68", "%69")
#define NANOPD_WGMMA_160(SCALAR_TYPE, PTX_TYPE)                                                                         \
    NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, 160, NANOPD_TEXT_160, NANOPD_SUMS_160, "%80", "%81", "%82", "%83", "%84", "%85")
#define NANOPD_WGMMA_192(SCALAR_TYPE, PTX_TYPE)                                                                         \
    NANOPD_WGMMA(SCALAR_TYPE, PTX_TYPE, 192, NANOPD_TEXT_192, NANOPD_SUMS_192, "%96", "%97", "%98", "%99", "%100", "%101")

NANOPD_WGMMA_32(__nv_bfloat16, "bf16")
NANOPD_WGMMA_32(__half, "f16")
NANOPD_WGMMA_64(__nv_bfloat16, "bf16")
NANOPD_WGMMA_64(__half, "f16")
NANOPD_WGMMA_96(__nv_bfloat16, "bf16")
NANOPD_WGMMA_96(__half, "f16")
NANOPD_WGMMA_128(__nv_bfloat16, "bf16")
NANOPD_WGMMA_128(__half, "f16")
NANOPD_WGMMA_160(__nv_bfloat16, "bf16")
NANOPD_WGMMA_160(__half, "f16")
NANOPD_WGMMA_192(__nv_bfloat16, "bf16")
NANOPD_WGMMA_192(__half, "f16")

#undef NANOPD_WGMMA_192
#undef NANOPD_WGMMA_160
#undef NANOPD_WGMMA_128
#undef NANOPD_WGMMA_96
#undef NANOPD_WGMMA_64
#undef NANOPD_WGMMA_32
#undef NANOPD_WGMMA
#undef NANOPD_TEXT_192
#undef NANOPD_TEXT_160
#undef NANOPD_TEXT_128
#undef NANOPD_TEXT_96
#undef NANOPD_TEXT_64
#undef NANOPD_TEXT_32
#undef NANOPD_SUMS_192
#undef NANOPD_SUMS_160
#undef NANOPD_SUMS_128
#undef NANOPD_SUMS_96
#undef NANOPD_SUMS_64
#undef NANOPD_SUMS_32
#undef NANOPD_SUMS_16

}  // namespace nanopd
