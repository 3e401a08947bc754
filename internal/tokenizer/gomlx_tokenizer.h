// C ABI of the Rust library in rust/: see rust/src for what each function does.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct gomlx_tokenizer gomlx_tokenizer;
typedef struct gomlx_template gomlx_template;
typedef struct gomlx_vocabulary gomlx_vocabulary;
typedef struct gomlx_matcher gomlx_matcher;

typedef struct {
  uint8_t* data;
  size_t len;
} gomlx_bytes;

typedef struct {
  uint32_t* data;
  size_t len;
} gomlx_ids;

void gomlx_bytes_free(gomlx_bytes b);
void gomlx_ids_free(gomlx_ids v);

// A vocabulary as a GGUF file has it: see rust/src/given.rs.
typedef struct {
  const uint8_t* text;
  size_t text_len;
  const uint32_t* ends;
  size_t tokens;
  const uint32_t* places;
  const uint8_t* merges;
  size_t merges_len;
  const uint32_t* merge_ends;
  const uint32_t* merge_spaces;
  size_t merge_count;
  int64_t unk;
  bool fuse_unk, byte_fallback, ignore_merges;
} gomlx_parts;

int gomlx_tokenizer_of_parts(const gomlx_parts* given, const uint8_t* rest, size_t rest_len, gomlx_tokenizer** out, gomlx_bytes* err);
int gomlx_tokenizer_new(const uint8_t* json, size_t len, gomlx_tokenizer** out, gomlx_bytes* err);
void gomlx_tokenizer_free(gomlx_tokenizer* t);
int gomlx_tokenizer_encode(const gomlx_tokenizer* t, const uint8_t* text, size_t len, bool add_special_tokens, gomlx_ids* out, gomlx_bytes* err);
int gomlx_tokenizer_encode_plain(const gomlx_tokenizer* t, const uint8_t* text, size_t len, gomlx_ids* out, gomlx_bytes* err);
int gomlx_tokenizer_added(const gomlx_tokenizer* t, gomlx_bytes* out, gomlx_bytes* err);
int gomlx_tokenizer_decode(const gomlx_tokenizer* t, const uint32_t* ids, size_t n, bool skip_special_tokens, gomlx_bytes* out, gomlx_bytes* err);
int gomlx_tokenizer_token_to_id(const gomlx_tokenizer* t, const uint8_t* token, size_t len, int64_t* out, gomlx_bytes* err);
int gomlx_tokenizer_kind(const gomlx_tokenizer* t, uint32_t id, bool skip_special_tokens, int32_t* out, gomlx_bytes* err);
int gomlx_tokenizer_vocab_size(const gomlx_tokenizer* t, size_t* out, gomlx_bytes* err);

int gomlx_template_new(const uint8_t* source, size_t len, gomlx_template** out, gomlx_bytes* err);
void gomlx_template_free(gomlx_template* t);
int gomlx_template_render(const gomlx_template* t, const uint8_t* context, size_t len, const int32_t* stop, gomlx_bytes* out, gomlx_bytes* err);

int gomlx_vocabulary_new(const gomlx_tokenizer* t, size_t size, const uint32_t* eos, size_t n, gomlx_vocabulary** out, gomlx_bytes* err);
void gomlx_vocabulary_free(gomlx_vocabulary* v);
int gomlx_matcher_new(const gomlx_vocabulary* v, const uint8_t* kind, size_t kind_len, const uint8_t* grammar, size_t grammar_len, gomlx_matcher** out, gomlx_bytes* err);
void gomlx_matcher_free(gomlx_matcher* m);
int gomlx_matcher_accept(gomlx_matcher* m, uint32_t token, gomlx_bytes* err);
int gomlx_matcher_mask(gomlx_matcher* m, bool* allowed, size_t n, gomlx_bytes* err);
