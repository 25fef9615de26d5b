// Rows of the embedding table by token id; ids outside the table (padding) give zeros.
//
// Macros: SCALAR (__nv_bfloat16 | __half), TOKEN_ID (int | long long), OUT (SCALAR's type, or float to start a residual stream).
#include <nanopd/pdl.cuh>
#include <nanopd/scalar.cuh>

using namespace nanopd;

// table [V, H], ids [T], out [T, H]; both contiguous, H a multiple of 8. One CTA a token.
extern "C" __global__ void embedding_kernel(const uint4* __restrict__ table, const TOKEN_ID* __restrict__ ids,
                                            OUT* __restrict__ out, long long vocab, int vectors_per_row) {
    let_successor_start();
    wait_for_predecessor();
    const long long id = ids[blockIdx.x];
    const bool known = id >= 0 && id < vocab;
    uint4* const row = reinterpret_cast<uint4*>(out + static_cast<long long>(blockIdx.x) * vectors_per_row * 8);
    for (int i = threadIdx.x; i < vectors_per_row; i += blockDim.x) {
        const uint4 vector = known ? table[id * vectors_per_row + i] : make_uint4(0, 0, 0, 0);
        if constexpr (sizeof(OUT) == 2) {
            row[i] = vector;
        } else {
            alignas(16) float values[8];
            unpack8<SCALAR>(vector, values);
            row[2 * i] = reinterpret_cast<const uint4*>(values)[0];
            row[2 * i + 1] = reinterpret_cast<const uint4*>(values)[1];
        }
    }
}
