// Programmatic dependent launch: a kernel may start while its predecessor in the stream still runs. No-ops when the launch
// did not ask for it, and before sm_90.
//
// A kernel calls wait_for_predecessor() before it touches anything an earlier kernel wrote or may still read; the wait ends when
// the predecessor has finished, and with it everything before. A kernel that lets its successor start only *after* its own
// wait gives that successor a promise: what lies before the direct predecessor is finished when the successor starts.
#pragma once

namespace nanopd {

__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_successor_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace nanopd
