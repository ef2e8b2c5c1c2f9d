// Trains two updates and prints how much memory Caffe asked for. See README.md.
#include <cstdlib>
#include <map>
#include <mutex>
#include "caffe/caffe.hpp"
#include "caffe/parallel.hpp"
#include "caffe/util/upgrade_proto.hpp"

dim3_ blockIdx, blockDim, threadIdx, gridDim;

// The shapes of blobs are counted apart (build.py sets this): they are a few ints a blob.
bool not_counted = false;

namespace {

class Counter {
 public:
  void add(void* p, size_t n) {
    std::lock_guard<std::mutex> lock(mutex_);
    sizes_[p] = n;
    live_ += n;
    rounding_ += rounding(n);
    if (live_ > peak_) {
      peak_ = live_;
      peak_rounding_ = rounding_;
    }
  }
  void remove(void* p) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = sizes_.find(p);
    if (found == sizes_.end()) return;
    live_ -= found->second;
    rounding_ -= rounding(found->second);
    sizes_.erase(found);
  }
  size_t peak() const { return peak_; }
  // What an allocator adds at the peak that rounds each request up to 512 bytes.
  size_t peak_rounding() const { return peak_rounding_; }

 private:
  static size_t rounding(size_t n) { return (512 - n % 512) % 512; }
  std::map<void*, size_t> sizes_;
  std::mutex mutex_;
  size_t live_ = 0, peak_ = 0, rounding_ = 0, peak_rounding_ = 0;
};

Counter device, host;

}  // namespace

cudaError_t count_malloc(void** p, size_t n) {
  *p = calloc(n ? n : 1, 1);
  device.add(*p, n);
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  device.remove(p);
  free(p);
  return cudaSuccess;
}

void count_host_malloc(void** p, size_t n, bool* pinned) {
  *p = malloc(n ? n : 1);
  *pinned = false;
  if (!not_counted) host.add(*p, n);
}

void count_host_free(void* p, bool) {
  host.remove(p);
  free(p);
}

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_minloglevel = 3;
  CHECK(argc == 2 || argc == 3) << "usage: measure solver.prototxt [gpus]";
  caffe::SolverParameter param;
  caffe::ReadSolverParamsFromTextFileOrDie(argv[1], &param);
  const bool gpu = param.solver_mode() == caffe::SolverParameter_SolverMode_GPU;
  caffe::Caffe::set_mode(gpu ? caffe::Caffe::GPU : caffe::Caffe::CPU);
  const Counter& counter = gpu ? device : host;
  caffe::shared_ptr<caffe::Solver<float>> solver(
      caffe::SolverRegistry<float>::CreateSolver(param));
  printf("{\"after_build\": %zu, ", counter.peak());
  // Several GPUs: what `caffe train` does on the first one; nobody answers its reductions.
  caffe::shared_ptr<caffe::NCCL<float>> several;
  if (argc == 3 && atoi(argv[2]) > 1) several.reset(new caffe::NCCL<float>(solver));
  solver->Step(1);
  printf("\"after_one_update\": %zu, ", counter.peak());
  solver->Step(1);
  printf("\"after_two_updates\": %zu, ", counter.peak());
  printf("\"rounding\": %zu}\n", counter.peak_rounding());
  fflush(stdout);
  _exit(0);  // without a snapshot, and without waiting for prefetch threads
}
