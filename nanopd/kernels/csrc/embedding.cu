// Rows of the embedding table by token id; ids outside the table (padding) give zeros.
#include <nanopd/pdl.cuh>

using namespace nanopd;

// table [V, H] of 16-bit elements, ids [T], out [T, H]; both contiguous, H a multiple of 8. One CTA a token.
extern "C" __global__ void embedding_kernel(const uint4* __restrict__ table, const TOKEN_ID* __restrict__ ids,
                                            uint4* __restrict__ out, long long vocab, int vectors_per_row) {
    let_successor_start();
    wait_for_predecessor();
    const long long id = ids[blockIdx.x];
    const bool known = id >= 0 && id < vocab;
    out += static_cast<long long>(blockIdx.x) * vectors_per_row;
    for (int i = threadIdx.x; i < vectors_per_row; i += blockDim.x)
        out[i] = known ? table[id * vectors_per_row + i] : make_uint4(0, 0, 0, 0);
}
