// csrc/sampling.cu on the host; KERNEL is its source with `shared` in host::shared_memory. Macros as there.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include KERNEL

// Rows one after another. Returns the number of rows run: fewer than num_rows if the next one waits for ever.
extern "C" int sample(const void* logits, const float* temperature, const long long* top_k, const float* top_p, const float* min_p,
                      const float* uniform, long long* out, long long row_stride, int vocab, int slice, int num_rows) {
    for (int row = 0; row < num_rows; ++row) {
        const Params params = {static_cast<const LOGIT*>(logits) + row * row_stride, temperature + row, top_k + row, top_p + row,
                               min_p + row, uniform + row, out + row, row_stride, vocab, slice, 1, 1};
        if (!host::run_cluster(CLUSTER, THREADS, sizeof(Shared), [&] { sampling_kernel(params); })) return row;
    }
    return num_rows;
}
