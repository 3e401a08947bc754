// Attention of a pass, with the norms and rotations of its queries and keys before it.
#pragma once

#include "rows.h"

namespace {

using gomlx::Past;
using gomlx::Visible;

// Rotates n pairs of a head, numbers in float32.
inline void rotate(float* head, const float* rotation, long n, bool neighbours) {
  const float *cosines = rotation, *sines = rotation + n;
  if (neighbours) {
    for (long i = 0; i < n; i++) {
      float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cosines[i] - b * sines[i], head[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
    return;
  }
  each_vector(n, [&](long i, long count) {
    vf a = load_part<0>(head, i, count), b = load_part<0>(head + n, i, count);
    vf c = load_part<0>(cosines, i, count), s = load_part<0>(sines, i, count);
    store_part<0>(head, i, a * c - b * s, count);
    store_part<0>(head + n, i, b * c + a * s, count);
  });
}

// One token's queries, keys and values: normed, rotated and rounded, as a cache keeps them.
template <int type> void prepare_token(const Attention& a, long token) {
  const long slots = a.heads + 2 * a.kv_heads, d = a.head_dim;
  const float* from = a.qkv + token * slots * d;
  char* to = (char*)a.own + token * slots * d * bytes_of<type>;
  float* head = (float*)gomlx::pool_scratch(gomlx::slot_block, (d + lanes) * sizeof(float));
  for (long slot = 0; slot < slots; slot++, from += d, to += d * bytes_of<type>) {
    const bool value = slot >= a.heads + a.kv_heads;
    const void* weight = value ? nullptr : slot < a.heads ? a.q_norm : a.k_norm;
    memcpy(head, from, d * sizeof(float));
    if (weight) {
      vf inverse = vset(inverse_rms(d, a.eps, [&](long i, long n) { return load_part<0>(head, i, n); }));
      each_vector(d, [&](long i, long n) { store_part<0>(head, i, load_part<0>(head, i, n) * inverse * load_part<type>(weight, i, n), n); });
    }
    if (!value) rotate(head, a.rotation + token * d, d / 2, a.neighbours);
    each_vector(d, [&](long i, long n) { store_part<type>(to, i, load_part<0>(head, i, n), n); });
  }
}

// A run of keys or values that lie at equal distances.
struct Run {
  const char *keys, *values;
  long stride, count;
};

// The runs that a query sees, oldest first: sinks, other past ones, which may go round the end of their room, then the pass's own.
template <int type> int visible_runs(const Attention& a, long row, long kv_head, const Visible& v, Run* runs) {
  const long d = a.head_dim, slots = a.heads + 2 * a.kv_heads, size = bytes_of<type>;
  int n = 0;
  const Past& past = a.past[row];
  if (v.past < past.length) {
    const char *keys = (const char*)past.keys + kv_head * past.room * d * size, *values = (const char*)past.values + kv_head * past.room * d * size;
    auto run = [&](long at, long count) { runs[n++] = {keys + at * d * size, values + at * d * size, d * size, count}; };
    const long sinks = lesser(past.sinks, past.length);
    if (v.past < sinks) run(v.past, sinks - v.past);
    for (long p = greater(v.past, past.oldest()); p < past.length;) {
      const long at = past.place(p), count = lesser(past.length - p, past.room - at);
      run(at, count);
      p += count;
    }
  }
  const char* own = (const char*)a.own + row * a.tokens * slots * d * size;
  for (int i = 0; i < 2; i++)
    if (v.first[i] < v.last[i]) {
      const char* token = own + v.first[i] * slots * d * size;
      runs[n++] = {token + (a.heads + kv_head) * d * size, token + (a.heads + a.kv_heads + kv_head) * d * size, slots * d * size, v.last[i] - v.first[i]};
    }
  return n;
}

// Scores of up to four keys for g queries, which are rows of q, d numbers (padded) each.
template <int type, int g> inline void score4(const float* q, long dp, const char* const* keys, long d, float scale, float* const* scores, long at, long count) {
  vf sums[4][g];
  for (int r = 0; r < 4; r++)
    for (int i = 0; i < g; i++) sums[r][i] = vset(0);
  each_vector(d, [&](long k, long n) {
    vf key[4];
    for (int r = 0; r < 4; r++) key[r] = load_part<type>(keys[r], k, n);
    for (int i = 0; i < g; i++) {
      vf query = vload(q + i * dp + k);
      for (int r = 0; r < 4; r++) sums[r][i] = vfma(key[r], query, sums[r][i]);
    }
  });
  for (int i = 0; i < g; i++) {
    four f = vsum4(sums[0][i], sums[1][i], sums[2][i], sums[3][i]);
    for (long r = 0; r < count; r++) scores[i][at + r] = f.at[r] * scale;
  }
}

// What g heads of one token attend to; they share their keys and values. Each output is one chain of sums over the
// visible keys, oldest first, whichever array these lie in and however many heads go together.
template <int type, int g> void attend_token(const Attention& a, long row, long token, long head) {
  const long d = a.head_dim, dp = (d + lanes - 1) / lanes * lanes, slots = a.heads + 2 * a.kv_heads, size = bytes_of<type>;
  const Visible& v = a.visible[row * a.tokens + token];
  Run runs[6];
  const int n = visible_runs<type>(a, row, head / (a.heads / a.kv_heads), v, runs);
  long total = 0;
  for (int i = 0; i < n; i++) total += runs[i].count;
  const long room = (total + lanes - 1) / lanes * lanes;
  float* q = (float*)gomlx::pool_scratch(gomlx::slot_scores, g * (dp + room) * sizeof(float));
  float* scores[g];
  const char* own = (const char*)a.own + (row * a.tokens + token) * slots * d * size;
  for (int i = 0; i < g; i++) {
    scores[i] = q + g * dp + i * room;
    each_vector(d, [&](long k, long count) { vstore(q + i * dp + k, load_part<type>(own + (head + i) * d * size, k, count)); });
  }
  long at = 0;
  for (int i = 0; i < n; i++)
    for (long j = 0; j < runs[i].count; j += 4) {
      const char* keys[4];
      for (long r = 0; r < 4; r++) keys[r] = runs[i].keys + lesser(j + r, runs[i].count - 1) * runs[i].stride;
      const long count = lesser(4, runs[i].count - j);
      score4<type, g>(q, dp, keys, d, a.scale, scores, at, count);
      at += count;
    }
  float inverse[g];
  for (int i = 0; i < g; i++) {
    vf most = vset(-__builtin_inff());
    each_vector(total, [&](long k, long count) { most = vmax(most, load_filled(scores[i], k, count, -__builtin_inff())); });
    const float top = vmax_of(most);
    vf sum = vset(0);
    each_vector(total, [&](long k, long count) {
      vf e = vexp(load_filled(scores[i], k, count, -__builtin_inff()) - vset(top));
      vstore(scores[i] + k, e);
      sum = sum + e;
    });
    inverse[i] = 1.f / vsum(sum);
  }
  // Four vectors of every head at a time, so that their sums stay in registers.
  char* out = (char*)a.out + ((row * a.tokens + token) * a.heads + head) * d * size;
  for (long k = 0; k < d; k += 4 * lanes) {
    vf sums[4][g];
    for (int j = 0; j < 4; j++)
      for (int i = 0; i < g; i++) sums[j][i] = vset(0);
    const long wide = lesser(4 * lanes, d - k);
    const int vectors = int((wide + lanes - 1) / lanes);
    const long last = wide - (vectors - 1) * lanes;
    long at = 0;
    for (int r = 0; r < n; r++) {
      const char* values = runs[r].values + k * size;
      for (long j = 0; j < runs[r].count; j++, at++, values += runs[r].stride) {
        vf weight[g];
        for (int i = 0; i < g; i++) weight[i] = vset(scores[i][at]);
        if (wide == 4 * lanes) {
          for (int w = 0; w < 4; w++) {
            vf value = load_as<type>(values, w * lanes);
            for (int i = 0; i < g; i++) sums[w][i] = vfma(weight[i], value, sums[w][i]);
          }
          continue;
        }
        for (int w = 0; w < vectors; w++) {
          vf value = load_part<type>(values, w * lanes, w == vectors - 1 ? last : lanes);
          for (int i = 0; i < g; i++) sums[w][i] = vfma(weight[i], value, sums[w][i]);
        }
      }
    }
    for (int i = 0; i < g; i++)
      for (int w = 0; w < vectors; w++)
        store_part<type>(out + i * d * size, k + w * lanes, sums[w][i] * vset(inverse[i]), w == vectors - 1 ? last : lanes);
  }
}

void attention(const Attention& a) {
  with_type(a.type, [&]<int type>() {
    each_row(a.rows * a.tokens, 8, [&](long token) { prepare_token<type>(a, token); });
    const long group = a.heads / a.kv_heads, all = a.rows * a.tokens;
    // Heads that share keys go together, up to four; of few tokens only as many as leave work for every thread.
    long together = lesser(4, group);
    while (together > 1 && all * a.heads < 2 * together * gomlx::pool_threads()) together /= 2;
    struct Work { const Attention* a; long together, pieces, per_task; } work{&a, together, 0, all >= 64 ? 8 : 1};
    work.pieces = a.kv_heads * ((group + together - 1) / together);
    gomlx::pool_run(work.pieces * ((all + work.per_task - 1) / work.per_task), [](void* p, long task, int) {
      const Work& w = *(const Work*)p;
      const Attention& a = *w.a;
      const long group = a.heads / a.kv_heads, per_kv = (group + w.together - 1) / w.together, piece = task % w.pieces;
      const long within = piece % per_kv * w.together, first = piece / per_kv * group + within, heads = lesser(w.together, group - within);
      for (long i = task / w.pieces * w.per_task, end = lesser(a.rows * a.tokens, i + w.per_task); i < end; i++) {
        const long row = i / a.tokens, token = i % a.tokens;
        switch (heads) {
          case 1: attend_token<type, 1>(a, row, token, first); break;
          case 2: attend_token<type, 2>(a, row, token, first); break;
          case 3: attend_token<type, 3>(a, row, token, first); break;
          case 4: attend_token<type, 4>(a, row, token, first); break;
        }
      }
    }, &work);
  });
}

} // namespace
