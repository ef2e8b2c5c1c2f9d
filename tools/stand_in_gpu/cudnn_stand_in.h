// What Caffe needs of cuDNN 6, for a machine without a GPU: nothing is computed, and every algorithm
// of a convolution wants the workspace that the environment variable WORKSPACE says, in bytes.
#pragma once
#include <tuple>
#include "cuda_runtime.h"
#define CUDNN_VERSION 6021
#define CUDNN_LRN_MAX_N 16
typedef int cudnnStatus_t, cudnnDataType_t, cudnnPoolingMode_t, cudnnActivationMode_t;
typedef void *cudnnHandle_t, *cudnnTensorDescriptor_t, *cudnnFilterDescriptor_t, *cudnnConvolutionDescriptor_t, *cudnnPoolingDescriptor_t, *cudnnActivationDescriptor_t, *cudnnLRNDescriptor_t;
enum { CUDNN_STATUS_SUCCESS, CUDNN_STATUS_NOT_INITIALIZED, CUDNN_STATUS_ALLOC_FAILED, CUDNN_STATUS_BAD_PARAM, CUDNN_STATUS_INTERNAL_ERROR, CUDNN_STATUS_INVALID_VALUE, CUDNN_STATUS_ARCH_MISMATCH, CUDNN_STATUS_MAPPING_ERROR, CUDNN_STATUS_EXECUTION_FAILED, CUDNN_STATUS_NOT_SUPPORTED, CUDNN_STATUS_LICENSE_ERROR, CUDNN_STATUS_RUNTIME_PREREQUISITE_MISSING };
enum { CUDNN_DATA_FLOAT, CUDNN_DATA_DOUBLE };
enum { CUDNN_POOLING_MAX, CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING };
enum { CUDNN_ACTIVATION_SIGMOID, CUDNN_ACTIVATION_RELU, CUDNN_ACTIVATION_TANH };
enum { CUDNN_TENSOR_NCHW, CUDNN_CROSS_CORRELATION, CUDNN_PROPAGATE_NAN, CUDNN_SOFTMAX_ACCURATE, CUDNN_SOFTMAX_MODE_CHANNEL, CUDNN_LRN_CROSS_CHANNEL_DIM1, CUDNN_DIVNORM_PRECOMPUTED_MEANS };
enum { CUDNN_CONVOLUTION_FWD_SPECIFY_WORKSPACE_LIMIT, CUDNN_CONVOLUTION_BWD_FILTER_SPECIFY_WORKSPACE_LIMIT, CUDNN_CONVOLUTION_BWD_DATA_SPECIFY_WORKSPACE_LIMIT };
enum cudnnConvolutionFwdAlgo_t { CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_FFT_TILING, CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD };
enum cudnnConvolutionBwdFilterAlgo_t { CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0 };
enum cudnnConvolutionBwdDataAlgo_t { CUDNN_CONVOLUTION_BWD_DATA_ALGO_0 };
// The last argument is where the size goes.
#define WORKSPACE_SIZE(name) template <class... A> inline int name(A... a) { const char* size = getenv("WORKSPACE"); *std::get<sizeof...(A) - 1>(std::make_tuple(a...)) = size ? atoll(size) : 0; return 0; }
WORKSPACE_SIZE(cudnnGetConvolutionForwardWorkspaceSize) WORKSPACE_SIZE(cudnnGetConvolutionBackwardFilterWorkspaceSize) WORKSPACE_SIZE(cudnnGetConvolutionBackwardDataWorkspaceSize)
#define CREATE(name) inline int name(void** h) { *h = (void*)1; return 0; }
CREATE(cudnnCreate) CREATE(cudnnCreateTensorDescriptor) CREATE(cudnnCreateFilterDescriptor) CREATE(cudnnCreateConvolutionDescriptor) CREATE(cudnnCreatePoolingDescriptor) CREATE(cudnnCreateActivationDescriptor) CREATE(cudnnCreateLRNDescriptor)
// By value, for Caffe passes constants that have no address.
#define IGNORE(name) template <class... A> inline int name(A...) { return 0; }
IGNORE(cudnnGetConvolutionForwardAlgorithm) IGNORE(cudnnGetConvolutionBackwardFilterAlgorithm) IGNORE(cudnnGetConvolutionBackwardDataAlgorithm)
IGNORE(cudnnDestroy) IGNORE(cudnnDestroyTensorDescriptor) IGNORE(cudnnDestroyFilterDescriptor) IGNORE(cudnnDestroyConvolutionDescriptor) IGNORE(cudnnDestroyPoolingDescriptor) IGNORE(cudnnDestroyActivationDescriptor) IGNORE(cudnnDestroyLRNDescriptor)
IGNORE(cudnnSetStream) IGNORE(cudnnSetTensor4dDescriptorEx) IGNORE(cudnnSetFilter4dDescriptor) IGNORE(cudnnSetConvolution2dDescriptor) IGNORE(cudnnSetPooling2dDescriptor) IGNORE(cudnnSetActivationDescriptor) IGNORE(cudnnSetLRNDescriptor)
IGNORE(cudnnConvolutionForward) IGNORE(cudnnAddTensor) IGNORE(cudnnConvolutionBackwardBias) IGNORE(cudnnConvolutionBackwardFilter) IGNORE(cudnnConvolutionBackwardData)
IGNORE(cudnnLRNCrossChannelForward) IGNORE(cudnnLRNCrossChannelBackward) IGNORE(cudnnDivisiveNormalizationForward) IGNORE(cudnnDivisiveNormalizationBackward)
IGNORE(cudnnPoolingForward) IGNORE(cudnnPoolingBackward) IGNORE(cudnnActivationForward) IGNORE(cudnnActivationBackward) IGNORE(cudnnSoftmaxForward) IGNORE(cudnnSoftmaxBackward)
