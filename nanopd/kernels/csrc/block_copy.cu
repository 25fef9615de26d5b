// Copies KV blocks between pools, all layers in one launch: copy-on-write, gather to a staging buffer, scatter, push to a peer.
//
// A (layer, block) piece is contiguous in both pools. Pieces are cut into chunks of kChunkBytes; CTAs take chunks in turn, so
// any number of CTAs does the job: few of them leave the rest of the GPU to other work, and each keeps 64 KiB in flight, which
// is what a link of 400 GB/s and 2 us needs from a dozen of them.
#include <nanopd/pdl.cuh>

using namespace nanopd;

constexpr int kThreads = 512;
constexpr int kVecsPerThread = 8;
constexpr int kChunkBytes = kThreads * kVecsPerThread * 16;

struct Params {
    const char* src;     // [L, num_blocks, piece_bytes], strides below
    char* dst;
    const int* src_ids;  // [num_ids], null: 0, 1, 2, ...
    const int* dst_ids;  // negative in either: skip
    long long src_layer_stride, src_block_stride, dst_layer_stride, dst_block_stride;  // bytes
    int num_layers, num_ids, piece_bytes, unused;
};

extern "C" __global__ void __launch_bounds__(kThreads) block_copy_kernel(const Params p) {
    wait_for_predecessor();
    let_successor_start();
    const int chunks_per_piece = (p.piece_bytes + kChunkBytes - 1) / kChunkBytes;
    const int num_chunks = p.num_layers * p.num_ids * chunks_per_piece;
    for (int chunk = blockIdx.x; chunk < num_chunks; chunk += gridDim.x) {
        const int piece = chunk / chunks_per_piece, layer = piece / p.num_ids, index = piece % p.num_ids;
        const int src_id = p.src_ids ? p.src_ids[index] : index, dst_id = p.dst_ids ? p.dst_ids[index] : index;
        if (src_id < 0 || dst_id < 0) continue;
        const uint4* src = reinterpret_cast<const uint4*>(p.src + layer * p.src_layer_stride + src_id * p.src_block_stride);
        uint4* dst = reinterpret_cast<uint4*>(p.dst + layer * p.dst_layer_stride + dst_id * p.dst_block_stride);
        const int first = chunk % chunks_per_piece * (kChunkBytes / 16) + threadIdx.x, end = p.piece_bytes / 16;
        uint4 held[kVecsPerThread];
#pragma unroll
        for (int i = 0; i < kVecsPerThread; ++i)
            if (first + i * kThreads < end) held[i] = __ldcs(src + first + i * kThreads);
#pragma unroll
        for (int i = 0; i < kVecsPerThread; ++i)
            if (first + i * kThreads < end) __stcs(dst + first + i * kThreads, held[i]);
    }
}
