// The way back through attention. What queries gave to keys is computed anew: a pass keeps no scores.
#pragma once

#include "attention.h"
#include "back.h"

namespace {

using gomlx::BackAttention;

// The keys that a query sees, as ranges of the pass's tokens.
INLINE bool sees(const Visible& v, long key) { return (key >= v.first[0] && key < v.last[0]) || (key >= v.first[1] && key < v.last[1]); }

// One pair of a row and a head of keys, with the heads of queries that share it.
struct Unit {
  const BackAttention& b;
  const Attention& a;
  long row, kv_head, group, slots, tokens, d;
  float* work; // for each head of the group: weights, then what comes back to the scores, [tokens, tokens] each

  Unit(const BackAttention& back, long unit, float* to) : b(back), a(back.of), row(unit / a.kv_heads), kv_head(unit % a.kv_heads),
      group(a.heads / a.kv_heads), slots(a.heads + 2 * a.kv_heads), tokens(a.tokens), d(a.head_dim), work(to) {}

  template <int type> Lines own(long slot, long token = 0) const {
    return {(const char*)a.own + ((row * tokens + token) * slots + slot) * d * bytes_of<type>, slots * d};
  }
  template <int type> Lines dout(long head, long token = 0) const {
    return {(const char*)b.dout + ((row * tokens + token) * a.heads + head) * d * bytes_of<type>, a.heads * d};
  }
  float* dqkv(long slot, long token) const { return b.dqkv + ((row * tokens + token) * slots + slot) * d; }
  const Visible& visible(long token) const { return a.visible[row * tokens + token]; }

  // Some queries of a head: the weights of all keys, what comes back to their scores, and with these to the queries.
  template <int type> void queries(long within, long first, long count) const {
    const long head = kv_head * group + within;
    float *weights = work + within * 2 * tokens * tokens + first * tokens, *scores = weights + tokens * tokens;
    long low = tokens, high = 0;
    for (long q = first; q < first + count; q++)
      for (int i = 0; i < 2; i++)
        if (const Visible& v = visible(q); v.first[i] < v.last[i]) low = lesser(low, v.first[i]), high = greater(high, v.last[i]);
    for (long q = 0; q < count; q++) {
      memset(dqkv(head, first + q), 0, d * sizeof(float));
      memset(weights + q * tokens, 0, tokens * sizeof(float));
      memset(scores + q * tokens, 0, tokens * sizeof(float));
    }
    if (low >= high) return;
    const long n = high - low, keys = a.heads + kv_head, values = keys + a.kv_heads;
    dot_lines<type, type>(own<type>(head, first), count, own<type>(keys, low), n, d, a.scale, weights + low, tokens);
    dot_lines<type, type>(dout<type>(head, first), count, own<type>(values, low), n, d, 1, scores + low, tokens);
    for (long q = 0; q < count; q++) {
      float *w = weights + q * tokens + low, *s = scores + q * tokens + low;
      const Visible& v = visible(first + q);
      for (long k = 0; k < n; k++)
        if (!sees(v, low + k)) w[k] = -__builtin_inff();
      vf most = vset(-__builtin_inff()), sum = vset(0), along = vset(0);
      each_vector(n, [&](long i, long wide) { most = vmax(most, load_filled(w, i, wide, -__builtin_inff())); });
      const float top = vmax_of(most);
      if (top == -__builtin_inff()) { // it sees nothing
        memset(w, 0, n * sizeof(float)), memset(s, 0, n * sizeof(float));
        continue;
      }
      each_vector(n, [&](long i, long wide) {
        const vf e = vexp(load_filled(w, i, wide, -__builtin_inff()) - vset(top));
        sum = sum + e, along = vfma(e, load_part<0>(s, i, wide), along);
        store_part<0>(w, i, e, wide);
      });
      const float inverse = 1.f / vsum(sum), mean = vsum(along) * inverse;
      each_vector(n, [&](long i, long wide) {
        const vf p = load_part<0>(w, i, wide) * vset(inverse);
        store_part<0>(w, i, p, wide);
        store_part<0>(s, i, p * (load_part<0>(s, i, wide) - vset(mean)) * vset(a.scale), wide);
      });
    }
    add_lines<type>(scores + low, tokens, 1, count, own<type>(keys, low), n, d, dqkv(head, first), slots * d);
  }

  // What comes back to some keys and values from all queries of the group.
  template <int type> void keys(long first, long count) const {
    const long keys = a.heads + kv_head, values = keys + a.kv_heads;
    long low = tokens, high = 0; // the queries that see one of them
    for (long q = 0; q < tokens; q++)
      for (int i = 0; i < 2; i++)
        if (const Visible& v = visible(q); v.first[i] < v.last[i] && v.first[i] < first + count && v.last[i] > first) low = lesser(low, q), high = q + 1;
    for (long k = first; k < first + count; k++) memset(dqkv(keys, k), 0, d * sizeof(float)), memset(dqkv(values, k), 0, d * sizeof(float));
    for (long within = 0; within < group && low < high; within++) {
      const long head = kv_head * group + within;
      const float *weights = work + within * 2 * tokens * tokens + low * tokens + first, *scores = weights + tokens * tokens;
      add_lines<type>(scores, 1, tokens, count, own<type>(head, low), high - low, d, dqkv(keys, first), slots * d);
      add_lines<type>(weights, 1, tokens, count, dout<type>(head, low), high - low, d, dqkv(values, first), slots * d);
    }
  }
};

// Back through a token's rotation and norms, in place.
template <int type> void back_prepare(const BackAttention& b, long token) {
  const Attention& a = b.of;
  const long slots = a.heads + 2 * a.kv_heads, d = a.head_dim, half = d / 2;
  float* rotation = (float*)gomlx::pool_scratch(gomlx::slot_block, d * sizeof(float)); // the other way round
  for (long i = 0; i < half; i++) rotation[i] = a.rotation[token * d + i], rotation[half + i] = -a.rotation[token * d + half + i];
  for (long slot = 0; slot < a.heads + a.kv_heads; slot++) {
    const float* from = a.qkv + (token * slots + slot) * d;
    float* to = b.dqkv + (token * slots + slot) * d;
    rotate(to, rotation, half, a.neighbours);
    const void* weight = slot < a.heads ? a.q_norm : a.k_norm;
    if (!weight) continue;
    back_norm_row(d, a.eps, [&](long i, long n, vf& x, vf& g) { x = load_part<0>(from, i, n), g = load_part<0>(to, i, n) * load_part<type>(weight, i, n); },
                  [&](long i, long n, vf v) { store_part<0>(to, i, v, n); });
  }
}

void back_attention(const BackAttention& b) {
  const Attention& a = b.of;
  with_type(a.type, [&]<int type>() {
    each_row(a.rows * a.tokens, 8, [&](long token) { prepare_token<type>(a, token); });
    constexpr long at_once = 8;
    const long group = a.heads / a.kv_heads, tasks = (a.tokens + at_once - 1) / at_once, size = 2 * group * a.tokens * a.tokens;
    const long all = a.rows * a.kv_heads, together = gomlx::units_at_once(a);
    for (long unit = 0; unit < all; unit += together) {
      const long units = lesser(together, all - unit);
      each_row(units * group * tasks, 1, [&](long i) {
        const long task = i % tasks, within = i / tasks % group, u = i / tasks / group;
        Unit(b, unit + u, b.work + u * size).queries<type>(within, task * at_once, lesser(at_once, a.tokens - task * at_once));
      });
      each_row(units * tasks, 1, [&](long i) {
        const long task = i % tasks, u = i / tasks;
        Unit(b, unit + u, b.work + u * size).keys<type>(task * at_once, lesser(at_once, a.tokens - task * at_once));
      });
    }
    each_row(a.rows * a.tokens, 8, [&](long token) { back_prepare<type>(b, token); });
  });
}

} // namespace
