// What Caffe needs of the CUDA runtime, cuBLAS and cuRAND, for a machine without a GPU: memory is the
// host's and is counted (measure.cpp), kernels and library calls compute nothing.
#pragma once
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <cfloat>
#include <algorithm>
using std::min; using std::max;
#define CUDA_VERSION 11020
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __CUDA_ARCH__ 700
struct dim3_ { unsigned x, y, z; };
extern dim3_ blockIdx, blockDim, threadIdx, gridDim;
inline void __syncthreads() {}
inline float __int_as_float(int){return 0;} inline int __float_as_int(float){return 0;}
inline double __longlong_as_double(long long){return 0;} inline long long __double_as_longlong(double){return 0;}
template <class T> inline T atomicAdd(T*, T){return T();}
template <class A, class B, class C> inline A atomicCAS(A*, B, C){return A();}
typedef int cudaError_t; const int cudaSuccess = 0;
typedef void* cudaStream_t; typedef void* cudaEvent_t;
const int cudaStreamDefault = 0, cudaStreamNonBlocking = 1;
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
struct cudaPointerAttributes { int device; };
struct cudaDeviceProp { int major, minor; char name[9]; size_t totalGlobalMem, sharedMemPerBlock; int regsPerBlock, warpSize; size_t memPitch; int maxThreadsPerBlock; int maxThreadsDim[3], maxGridSize[3]; int clockRate; size_t totalConstMem, textureAlignment; int deviceOverlap, multiProcessorCount, kernelExecTimeoutEnabled; };
cudaError_t count_malloc(void** p, size_t n);
cudaError_t cudaFree(void* p);
template <class T> inline cudaError_t cudaMalloc(T** p, size_t n) { return count_malloc((void**)p, n); }
inline cudaError_t cudaMallocHost(void** p, size_t n) { *p = malloc(n ? n : 1); return 0; }
inline cudaError_t cudaFreeHost(void* p) { free(p); return 0; }
inline cudaError_t cudaMemcpy(void* d, const void* s, size_t n, int) { memcpy(d, s, n); return 0; }
inline cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, int, cudaStream_t) { memcpy(d, s, n); return 0; }
inline cudaError_t cudaMemset(void* d, int v, size_t n) { memset(d, v, n); return 0; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaPeekAtLastError() { return 0; }
inline cudaError_t cudaGetLastError() { return 0; }
inline cudaError_t cudaGetDevice(int* d) { *d = 0; return 0; }
inline cudaError_t cudaSetDevice(int) { return 0; }
inline cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return 0; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int) { return 0; }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void*) { a->device = 0; return 0; }
inline cudaError_t cudaStreamCreate(cudaStream_t* s) { *s = 0; return 0; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, int) { *s = 0; return 0; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return 0; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return 0; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, int) { return 0; }
inline cudaError_t cudaEventCreate(cudaEvent_t*) { return 0; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return 0; }
inline cudaError_t cudaEventRecord(cudaEvent_t, int) { return 0; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return 0; }
inline cudaError_t cudaEventElapsedTime(float* t, cudaEvent_t, cudaEvent_t) { *t = 1; return 0; }
// A launch `kernel<<<grid, block>>>(arguments)` becomes this (build.py).
template <class... A> inline void evaluate(A&&...) {}
typedef void* cublasHandle_t; typedef int cublasStatus_t; typedef int cublasOperation_t;
enum { CUBLAS_OP_N, CUBLAS_OP_T };
enum { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_INITIALIZED, CUBLAS_STATUS_ALLOC_FAILED, CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_MAPPING_ERROR, CUBLAS_STATUS_EXECUTION_FAILED, CUBLAS_STATUS_INTERNAL_ERROR, CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_LICENSE_ERROR };
inline int cublasCreate(cublasHandle_t* h) { *h = (void*)1; return 0; }
inline int cublasDestroy(cublasHandle_t) { return 0; }
inline int cublasGetStream(cublasHandle_t, cudaStream_t*) { return 0; }
inline int cublasSetStream(cublasHandle_t, cudaStream_t) { return 0; }
#define NOOP(name) template <class... A> inline int name(A&&...) { return 0; }
NOOP(cublasSgemm) NOOP(cublasDgemm) NOOP(cublasSgemv) NOOP(cublasDgemv) NOOP(cublasSaxpy) NOOP(cublasDaxpy) NOOP(cublasSscal) NOOP(cublasDscal) NOOP(cublasScopy) NOOP(cublasDcopy)
inline int cublasSdot(cublasHandle_t, int, const float*, int, const float*, int, float* r) { *r = 1; return 0; }
inline int cublasDdot(cublasHandle_t, int, const double*, int, const double*, int, double* r) { *r = 1; return 0; }
inline int cublasSasum(cublasHandle_t, int, const float*, int, float* r) { *r = 1; return 0; }
inline int cublasDasum(cublasHandle_t, int, const double*, int, double* r) { *r = 1; return 0; }
typedef void* curandGenerator_t; typedef int curandStatus_t; enum { CURAND_RNG_PSEUDO_DEFAULT };
enum { CURAND_STATUS_SUCCESS, CURAND_STATUS_VERSION_MISMATCH, CURAND_STATUS_NOT_INITIALIZED, CURAND_STATUS_ALLOCATION_FAILED, CURAND_STATUS_TYPE_ERROR, CURAND_STATUS_OUT_OF_RANGE, CURAND_STATUS_LENGTH_NOT_MULTIPLE, CURAND_STATUS_DOUBLE_PRECISION_REQUIRED, CURAND_STATUS_LAUNCH_FAILURE, CURAND_STATUS_PREEXISTING_FAILURE, CURAND_STATUS_INITIALIZATION_FAILED, CURAND_STATUS_ARCH_MISMATCH, CURAND_STATUS_INTERNAL_ERROR };
inline int curandCreateGenerator(curandGenerator_t* g, int) { *g = (void*)1; return 0; }
NOOP(curandDestroyGenerator) NOOP(curandSetPseudoRandomGeneratorSeed) NOOP(curandSetGeneratorOffset) NOOP(curandGenerateUniform) NOOP(curandGenerateUniformDouble) NOOP(curandGenerateNormal) NOOP(curandGenerateNormalDouble) NOOP(curandGenerate)
