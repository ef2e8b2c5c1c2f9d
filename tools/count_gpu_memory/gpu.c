/*
 * A GPU that only keeps accounts: preloaded (LD_PRELOAD) into Caffe's CUDA build, it answers the
 * calls of the CUDA runtime, cuBLAS and cuRAND that the host code makes, so that the build runs in
 * GPU mode on a machine without a GPU. Memory is given, copied and counted; kernels compute nothing.
 *
 * What Caffe asks cudaMalloc for is counted: what is live now, and the most that ever was. With the
 * environment variable COUNT_GPU_MEMORY_LIMIT (bytes) a request that would pass the limit is
 * answered with cudaErrorMemoryAllocation, as a full GPU does. The program that is run may ask with
 * the counted_* functions below (ctypes).
 *
 *     cc -std=c99 -O2 -Wall -Wextra -shared -fPIC -o libcount_gpu_memory.so gpu.c -lpthread
 *
 * No CUDA header is needed: an enum of CUDA's is an int, a handle or a stream a pointer.
 */

#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2 }; /* cudaError_t; SUCCESS is also cuBLAS's and cuRAND's */
enum { PAGE = 4096 };
enum { GRANULARITY = 512 }; /* bytes that cudaMalloc rounds up to */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t live, rounding, peak, peak_rounding;

/* For the program that is run, in bytes: live now, the peak so far, and what cudaMalloc's
   granularity added at the peak. */
size_t counted_live(void) { return live; }
size_t counted_peak(void) { return peak; }
size_t counted_peak_rounding(void) { return peak_rounding; }

static size_t limit(void) {
  const char *text = getenv("COUNT_GPU_MEMORY_LIMIT");
  return text && *text ? (size_t)strtoull(text, NULL, 10) : SIZE_MAX;
}

static size_t rounded_off(size_t size) {
  return (GRANULARITY - size % GRANULARITY) % GRANULARITY;
}

/* Takes the size into the accounts; 0 if it would pass the limit. */
static int take(size_t size) {
  const size_t most = limit();
  pthread_mutex_lock(&lock);
  const int fits = live <= most && size <= most - live;
  if (fits) {
    live += size;
    rounding += rounded_off(size);
    if (live > peak) {
      peak = live;
      peak_rounding = rounding;
    }
  }
  pthread_mutex_unlock(&lock);
  return fits;
}

static void give_back(size_t size) {
  pthread_mutex_lock(&lock);
  live -= size;
  rounding -= rounded_off(size);
  pthread_mutex_unlock(&lock);
}

/*
 * Device memory. Its size stands in a page before it. It is real memory, so that what is copied to
 * the device can be read back (some layers do on the host), but pages that nobody writes to cost
 * nothing: a net of many gigabytes runs on a small machine.
 */

int cudaMalloc(void **device, size_t size) {
  *device = NULL;
  if (!take(size)) return OUT_OF_MEMORY;
  char *block = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) {
    give_back(size);
    return OUT_OF_MEMORY;
  }
  *(size_t *)block = size;
  *device = block + PAGE;
  return SUCCESS;
}

int cudaFree(void *device) {
  if (!device) return SUCCESS;
  char *block = (char *)device - PAGE;
  const size_t size = *(size_t *)block;
  munmap(block, size + PAGE);
  give_back(size);
  return SUCCESS;
}

int cudaMemset(void *device, int value, size_t size) {
  char *start = device, *end = start + size;
  if (value == 0 && size > 2 * PAGE) { /* whole pages are forgotten, and read as zeros again */
    char *first = (char *)(((uintptr_t)start + PAGE - 1) / PAGE * PAGE);
    char *last = (char *)((uintptr_t)end / PAGE * PAGE);
    madvise(first, (size_t)(last - first), MADV_DONTNEED);
    memset(start, 0, (size_t)(first - start));
    start = last;
  }
  memset(start, value, (size_t)(end - start));
  return SUCCESS;
}

int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  (void)kind;
  memmove(to, from, size);
  return SUCCESS;
}

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  (void)stream;
  return cudaMemcpy(to, from, size, kind);
}

int cudaMallocHost(void **host, size_t size) {
  *host = malloc(size ? size : 1);
  return *host ? SUCCESS : OUT_OF_MEMORY;
}

int cudaFreeHost(void *host) {
  free(host);
  return SUCCESS;
}

/* One device, always there, always done. */

int cudaGetDeviceCount(int *count) { return *count = 1, SUCCESS; }
int cudaGetDevice(int *device) { return *device = 0, SUCCESS; }
int cudaSetDevice(int device) { return device == 0 ? SUCCESS : 101; /* cudaErrorInvalidDevice */ }
int cudaGetLastError(void) { return SUCCESS; }
int cudaPeekAtLastError(void) { return SUCCESS; }

const char *cudaGetErrorString(int error) {
  switch (error) {
    case SUCCESS: return "no error";
    case OUT_OF_MEMORY: return "out of memory";
    default: return "invalid device ordinal";
  }
}

static char handle; /* what all handles, streams and events point to */

int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  (void)flags;
  return *stream = &handle, SUCCESS;
}
int cudaStreamDestroy(void *stream) { return (void)stream, SUCCESS; }
int cudaStreamSynchronize(void *stream) { return (void)stream, SUCCESS; }
int cudaEventCreate(void **event) { return *event = &handle, SUCCESS; }
int cudaEventDestroy(void *event) { return (void)event, SUCCESS; }
int cudaEventRecord(void *event, void *stream) { return (void)event, (void)stream, SUCCESS; }
int cudaEventSynchronize(void *event) { return (void)event, SUCCESS; }
int cudaEventElapsedTime(float *ms, void *start, void *end) {
  return (void)start, (void)end, *ms = 0, SUCCESS;
}

/* Kernels: what nvcc puts around a <<<launch>>>. */

struct dim3 {
  unsigned x, y, z;
};

void **__cudaRegisterFatBinary(void *binary) {
  static void *registered;
  return (void)binary, &registered;
}
void __cudaRegisterFatBinaryEnd(void **binary) { (void)binary; }
void __cudaUnregisterFatBinary(void **binary) { (void)binary; }
void __cudaRegisterFunction(void **binary, const char *host, char *device, const char *name,
                            int threads, void *tid, void *bid, void *block, void *grid, int *warp) {
  (void)binary, (void)host, (void)device, (void)name, (void)threads;
  (void)tid, (void)bid, (void)block, (void)grid, (void)warp;
}
void __cudaRegisterVar(void **binary, char *host, char *device, const char *name, int external,
                       size_t size, int constant, int global) {
  (void)binary, (void)host, (void)device, (void)name;
  (void)external, (void)size, (void)constant, (void)global;
}
unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared,
                                     void *stream) {
  return (void)grid, (void)block, (void)shared, (void)stream, 0;
}
int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared,
                               void **stream) {
  const struct dim3 one = {1, 1, 1};
  *grid = *block = one;
  *shared = 0;
  *stream = NULL;
  return SUCCESS;
}
int cudaLaunchKernel(const void *kernel, struct dim3 grid, struct dim3 block, void **arguments,
                     size_t shared, void *stream) {
  return (void)kernel, (void)grid, (void)block, (void)arguments, (void)shared, (void)stream, 0;
}

/* cuBLAS and cuRAND: every other function of theirs computes on the device, that is, nothing. */

int cublasCreate_v2(void **made) { return *made = &handle, SUCCESS; }
int cublasGetStream_v2(void *blas, void **stream) { return (void)blas, *stream = NULL, SUCCESS; }
int curandCreateGenerator(void **made, int kind) { return (void)kind, *made = &handle, SUCCESS; }

#define NOTHING(name) \
  int name(void) { return SUCCESS; }
#define NOTHING_FLOAT_DOUBLE(before, after) NOTHING(before##S##after) NOTHING(before##D##after)

NOTHING(cublasDestroy_v2)
NOTHING(cublasSetStream_v2)
NOTHING_FLOAT_DOUBLE(cublas, axpy_v2)
NOTHING_FLOAT_DOUBLE(cublas, copy_v2)
NOTHING_FLOAT_DOUBLE(cublas, gemm_v2)
NOTHING_FLOAT_DOUBLE(cublas, gemv_v2)
NOTHING_FLOAT_DOUBLE(cublas, scal_v2)
NOTHING(curandDestroyGenerator)
NOTHING(curandGenerate)
NOTHING(curandGenerateNormal)
NOTHING(curandGenerateNormalDouble)
NOTHING(curandGenerateUniform)
NOTHING(curandGenerateUniformDouble)
NOTHING(curandSetGeneratorOffset)
NOTHING(curandSetPseudoRandomGeneratorSeed)

/* Sums that the host waits for. */

#define DOT(name, real)                                                                         \
  int name(void *blas, int n, const real *x, int dx, const real *y, int dy, real *result) {     \
    return (void)blas, (void)n, (void)x, (void)dx, (void)y, (void)dy, *result = 0, SUCCESS;     \
  }
#define ASUM(name, real)                                                                        \
  int name(void *blas, int n, const real *x, int dx, real *result) {                            \
    return (void)blas, (void)n, (void)x, (void)dx, *result = 0, SUCCESS;                        \
  }

DOT(cublasSdot_v2, float)
DOT(cublasDdot_v2, double)
ASUM(cublasSasum_v2, float)
ASUM(cublasDasum_v2, double)
