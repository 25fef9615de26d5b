// In place of nanopd/cluster.cuh: one cluster runs at a time, and a CTA's shared memory lies in host::shared_memory.
#pragma once

#include <cuda_on_host.h>

namespace nanopd {

template <int kClusterSize> struct Cluster {
    static int rank() { return host::current->cta; }
    template <typename T> static T* peer(T* mine, int rank) {
        const long offset = reinterpret_cast<char*>(mine) - host::shared_memory[host::current->cta].data();
        return reinterpret_cast<T*>(host::shared_memory[rank].data() + offset);
    }
    static void sync() { host::barrier(host::cluster); }
    static void arrive() {}  // early arrival is not told apart: wait() waits for all
    static void wait() { host::barrier(host::cluster); }
};

}  // namespace nanopd
