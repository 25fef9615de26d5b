// out = silu(gate) * up, with gate and up side by side in a row as the fused gate-up projection leaves them.
//
// Macros: SCALAR (__nv_bfloat16 | __half), THREADS, VECS (16-byte vectors of out a thread).
#include <nanopd/math.cuh>
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>

using namespace nanopd;

constexpr int kThreads = THREADS;
constexpr int kVecs = VECS;

// gate_up [T, 2 * I], rows gate_up_stride apart; out [T, I] contiguous. I and the stride are multiples of 8.
// Grid: (T * CTAs a row, 1, 1).
extern "C" __global__ void __launch_bounds__(kThreads)
    silu_mul_kernel(const SCALAR* __restrict__ gate_up, SCALAR* __restrict__ out, int intermediate, int ctas_per_row,
                    long long gate_up_stride) {
    const long long row = blockIdx.x / ctas_per_row;
    const int first = (blockIdx.x % ctas_per_row * kVecs * kThreads + threadIdx.x) * 8;
    gate_up += row * gate_up_stride;
    out += row * intermediate;
    let_successor_start();
    wait_for_predecessor();

    uint4 gate[kVecs], up[kVecs];
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = first + v * kThreads * 8;
        if (i >= intermediate) continue;
        gate[v] = *reinterpret_cast<const uint4*>(gate_up + i);
        up[v] = *reinterpret_cast<const uint4*>(gate_up + intermediate + i);
    }
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
        const int i = first + v * kThreads * 8;
        if (i >= intermediate) continue;
        float g[8], u[8];
        unpack8<SCALAR>(gate[v], g);
        unpack8<SCALAR>(up[v], u);
#pragma unroll
        for (int j = 0; j < 8; ++j) g[j] = __fdividef(g[j], 1.f + exp2_approx(-kLog2e * g[j])) * u[j];
        *reinterpret_cast<uint4*>(out + i) = pack8<SCALAR>(g);
    }
}
