// The CPU kernels as MLX ops, for C. Functions return 0, or 1 after giving the reason to mlx-c's error handler; no C++
// exception leaves them. Results are lazy like any MLX array; `out` must be an empty handle, and handles are the caller's to free.
#pragma once

#include "mlx/c/mlx.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GOMLX_API __attribute__((visibility("default")))

// The name of the instruction set that kernels use here, e.g. "avx512bf16", or null after an error (GO_MLX_CPU names none).
GOMLX_API const char* gomlx_cpu_level(void);

// Threads that kernels of all models share; 0 is what the machine and the process's cgroup offer.
GOMLX_API void gomlx_cpu_set_threads(int n);
GOMLX_API int gomlx_cpu_threads(void);

// A layer's weights [outputs, inputs]: plain, or packed with scales and biases (MLX's affine quantisation, and groups of 16 too, but
// not of 4 bits). Without biases packed weights are scale * (q - 2^(bits - 1)). Handles that do not apply are empty.
typedef struct {
  mlx_array weights, scales, biases, bias;
  int bits, group; // 0 for plain weights
  int interleaved; // packed rows are in the order in which kernels read them, see gomlx_interleave
} gomlx_linear;

// Whether products with packed weights of some bits are quicker here when these are interleaved.
GOMLX_API int gomlx_likes_interleaved(int bits);
// Brings weights, scales and biases, which are evaluated and nobody else's, into the order in which kernels read them, where they lie. MLX's own
// ops cannot compute with them from then on.
GOMLX_API int gomlx_interleave(const gomlx_linear* layer);

enum { GOMLX_GATE_NONE, GOMLX_GATE_GELU, GOMLX_GATE_SILU };

// What is added to a layer: scale * (x a) b, with a [inputs, rank] and b [rank, outputs] in float32; empty handles for nothing.
typedef struct {
  mlx_array a, b;
  float scale;
} gomlx_lora;

// x [..., inputs] through up to eight layers: [..., all their outputs]. With a gate, two layers of one size:
// [..., outputs], the first one's activation times the second one. wide asks for float32. loras is null, or one for each layer, with
// wide and without a gate. many is for passes of many rows whose keys and values nobody keeps: packed weights may then be multiplied in another way, which
// is quicker for many rows and gives other last bits, whatever the number of rows. Gradients are those of x and of LoRAs: layers are frozen. So they are in all ops here.
GOMLX_API int gomlx_apply(mlx_array* out, mlx_array x, const gomlx_linear* parts, const gomlx_lora* loras, int n, int gate, int wide, int many, mlx_stream s);

// Rows of a table for ids int32 [...], times scale: [..., columns] in a type.
GOMLX_API int gomlx_lookup(mlx_array* out, const gomlx_linear* table, mlx_array ids, float scale, mlx_dtype dtype, mlx_stream s);

// Cosines and sines of positions int32 [rows, tokens] for heads of head_dim: float32 [rows, tokens, head_dim]. Angles are
// position * scale / base^(2i/head_dim), or position * scale / wavelengths[i] if that, float32 [head_dim / 2], is given.
GOMLX_API int gomlx_rotation(mlx_array* out, mlx_array positions, mlx_array wavelengths, float base, float scale, int head_dim, mlx_stream s);

typedef struct {
  int heads, kv_heads, head_dim;
  float eps, scale;
  int neighbours; // rotate neighbouring pairs instead of halves
  int keep; // put the pass's keys and values into the rooms
} gomlx_attention;

// The KV of one row in one layer. The first `sinks` positions lie at their numbers and are never written over, a later position p at
// sinks + (p - sinks) % (room - sinks).
typedef struct {
  int length; // positions so far
  int room;   // that there shall be after the pass; a larger one is only right as long as positions have not gone round
  int owned;  // nobody else looks at keys and values any more: they are written in place if the room is the same
  int sinks;
} gomlx_past;

// Attention of a pass. qkv is float32 [rows, tokens, (heads + 2 kv_heads) * head_dim], rotation is what gomlx_rotation gave;
// q_norm and k_norm may be empty. visible is int32 [rows, tokens, 5]: the first past position, and two ranges of the pass's own
// tokens, begins and then ends; past positions that are not there any more are not seen. kv is the keys and values [1, kv_heads, room,
// head_dim] of each row, empty handles where the length is 0. With keep, kept gets the new keys and values of each row. out is
// [rows, tokens, heads * head_dim] in dtype.
GOMLX_API int gomlx_attend(mlx_array* out, mlx_array* kept, mlx_array qkv, mlx_array rotation, mlx_array q_norm, mlx_array k_norm, mlx_array visible,
                           const mlx_array* kv, const gomlx_past* past, const gomlx_attention* settings, mlx_dtype dtype, mlx_stream s);

// sum = h + y, or h + norm(y) post if post is given, and normed = norm(sum) next. h is [..., n], y float32 of the same shape.
GOMLX_API int gomlx_add_norm(mlx_array* sum, mlx_array* normed, mlx_array h, mlx_array y, mlx_array post, mlx_array next, float eps, int clip, mlx_stream s);

GOMLX_API int gomlx_rms_norm(mlx_array* out, mlx_array x, mlx_array weight, float eps, mlx_stream s);

// The activation of the first half of gate_up, float32 [..., 2 n], times its second half: [..., n] in dtype.
GOMLX_API int gomlx_gate(mlx_array* out, mlx_array gate_up, int gate, mlx_dtype dtype, mlx_stream s);

// Log-probabilities, float32 [picks], that the outputs of a layer for x [rows, inputs] give to picked ids int32 [picks] in picked
// rows int32 [picks]; ids are in ascending order.
GOMLX_API int gomlx_scores(mlx_array* out, mlx_array x, const gomlx_linear* layer, mlx_array rows, mlx_array ids, mlx_stream s);

// The cross entropy, float32 [rows], of the outputs of a layer for x [rows, inputs] with target ids int32 [rows]. slopes, float32 [rows,
// inputs], are its derivatives by x, which its gradient needs; null if there will be none. Logits are computed piece by piece.
GOMLX_API int gomlx_cross_entropy(mlx_array* out, mlx_array* slopes, mlx_array x, const gomlx_linear* layer, mlx_array targets, mlx_stream s);

// x - log(sum(exp(x))) over the last axis of float32 x.
GOMLX_API int gomlx_log_softmax(mlx_array* out, mlx_array x, mlx_stream s);

// A whole decoder, whose passes are single ops. It holds its weights, which are evaluated, until it and its passes are gone.
typedef struct gomlx_decoder gomlx_decoder;

typedef struct {
  int heads, kv_heads, head_dim;
  float eps, scale;      // of norms, and of attention scores
  float embed_scale;     // of embeddings
  int gate, clip;        // as above
  int windows;           // how many different ones its layers have
} gomlx_decoder_settings;

typedef struct {
  float base, scale;
  int neighbours;
  mlx_array wavelengths; // as for gomlx_rotation
} gomlx_decoder_rotation;

// Norms after blocks and norms of queries and keys may be empty. rotation and window are indices.
typedef struct {
  gomlx_linear q, k, v, o, gate, up, down;
  mlx_array input_norm, q_norm, k_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm;
  int rotation, window;
} gomlx_decoder_layer;

GOMLX_API int gomlx_decoder_new(gomlx_decoder** out, const gomlx_decoder_settings* settings, const gomlx_linear* table, mlx_array norm,
                                const gomlx_decoder_rotation* rotations, int n_rotations, const gomlx_decoder_layer* layers, int n);
GOMLX_API void gomlx_decoder_free(gomlx_decoder* d);

// What a pass of [rows, tokens] knows of positions and of KV, copied when the op is made.
typedef struct {
  const int* positions; // [rows, tokens]
  const int* visible;   // [windows, rows, tokens, 5], as for gomlx_attend
  const gomlx_past* past; // [layers, rows]
  int keep; // whether the pass's own keys and values are kept; where they are not, products are those of `many` in gomlx_apply
} gomlx_pass;

// The normed states [rows, tokens, hidden] of ids, int32 or uint32 [rows, tokens]. kv is the keys and values of each layer and row, kept
// receives as many with keep; both as for gomlx_attend.
GOMLX_API int gomlx_decode(mlx_array* out, mlx_array* kept, gomlx_decoder* decoder, mlx_array ids, const mlx_array* kv, const gomlx_pass* pass, mlx_stream s);

// A file of weights, of which arrays are made before it is read. Reading puts bytes straight to where the arrays have them. The
// memory lives as long as arrays of it do.
typedef struct gomlx_file gomlx_file;
// start is where the tensors begin in the file.
GOMLX_API int gomlx_file_open(gomlx_file** out, const char* path, size_t start);
// The array of the bytes from offset on, aligned for dtype.
GOMLX_API int gomlx_file_array(mlx_array* out, const gomlx_file* file, size_t offset, const int* shape, int ndim, mlx_dtype dtype);
GOMLX_API int gomlx_file_read(gomlx_file* file, const size_t* offsets, const size_t* lengths, size_t n);
// Room of so many bytes for weights that the caller makes: a file that is not read but written to, at the place that gomlx_file_bytes_at
// gives, before anything uses the arrays of these bytes.
GOMLX_API int gomlx_file_room(gomlx_file** out, size_t size);
GOMLX_API int gomlx_file_bytes_at(void** out, gomlx_file* file, size_t offset, size_t length);
GOMLX_API void gomlx_file_close(gomlx_file* file);
// Bytes read from files, in the whole process, that arrays still hold. MLX's own account does not have them.
GOMLX_API size_t gomlx_file_bytes(void);

#ifdef __cplusplus
}
#endif
