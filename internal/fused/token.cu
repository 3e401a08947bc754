// One token of one sequence through a whole decoder, in one launch: the blocks stay on the GPU from the embedding to the
// choice of the most likely token and tell each other the results of steps in global memory. There is at most one block on each
// multiprocessor, and all must run at once. This is the last part; token.go puts the others in front. What goes in front of all defines the shape:
//
//   LAYERS HIDDEN HEADS KV_HEADS HEAD_DIM INTER VOCAB   sizes
//   HALF (float16, else bfloat16) BITS GROUP (of packed weights; BITS 0 for plain ones) QK_NORM POST_NORM GELU FREQS
//   EPS ATTENTION_SCALE EMBED_SCALE                     bits of float32 numbers; EMBED_SCALE 0 for none
//   KINDS KIND_OF ROPES ROPE_OF ROPE_BASE ROPE_SCALE    which layers share places in their caches, and rotations
//   PARTS SHARED_BYTES THREADS BLOCKS                   room for these parts, shared memory of a block, its threads, how many blocks
//   PARAMETERS POINTERS AT FILLED ROOM                  the kernel's parameters, and how they get into tables
//
// Results are rounded where MLX's own ops round.

extern "C" __global__ void __launch_bounds__(THREADS, 1) go_mlx_token(PARAMETERS) {
  Workspace* w = reinterpret_cast<Workspace*>(workspace);
  unsigned long long* tops = reinterpret_cast<unsigned long long*>(w + 1);
  unsigned long long* values = tops + 2 * BLOCKS * HEADS;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) {
    switch (warp) { POINTERS } // shared().pointer = the parameters, some by every warp
  }
  if (threadIdx.x < 4) {
    constexpr int rows[4] = {QKV_ROWS, HIDDEN, INTER, VOCAB};
    share_out(threadIdx.x, rows[threadIdx.x]);
  }
  if (threadIdx.x < 64) {
    shared().zeros[threadIdx.x] = 0;
  }
  for (int i = threadIdx.x; i < ROPES * (HEAD_DIM / 2); i += THREADS) {
    const int rope = i / (HEAD_DIM / 2), pair = i % (HEAD_DIM / 2);
    const float frequency = FREQS ? 1.f / freqs[pair] : exp2f(-(static_cast<float>(pair) / (HEAD_DIM / 2)) * number(rope_base[rope]));
    sincosf(number(rope_scale[rope]) * position * frequency, &shared().sine[rope][pair], &shared().cosine[rope][pair]);
  }
  const int at[KINDS] = AT, filled[KINDS] = FILLED, room[KINDS] = ROOM;
  const T* all_norms = static_cast<const T*>(norms);
  const T* all_head_norms = static_cast<const T*>(head_norms);
  Matrix table, output;
  table.weights = static_cast<const unsigned char*>(embed);
  table.scales = static_cast<const T*>(embed_scales);
  table.biases = static_cast<const T*>(embed_biases);
  output.weights = static_cast<const unsigned char*>(head);
  output.scales = static_cast<const T*>(head_scales);
  output.biases = static_cast<const T*>(head_biases);
  unsigned tick = peek(&w->ticks), due = 0;
  int which = 0;
  Stream stream;
  T before[EACH], post[EACH];
  const unsigned id = *static_cast<const unsigned*>(token);
  read_norm(all_norms, before);
  look_up(stream, table, id < VOCAB ? id : 0);
  __syncthreads();
  QKVProduct for_qkv;
  for_qkv.begin(matrix(0));
  norm(stream, before, which);
#pragma unroll 1
  for (int layer = 0; layer < LAYERS; layer++) {
    const int base = layer * 4 * MATRIX;
    const T* layer_norms = all_norms + static_cast<long long>(layer) * NORMS * HIDDEN; // input, MLP's, after attention, after the MLP
    const Matrix qkv = matrix(base), o = matrix(base + MATRIX), gate_up = matrix(base + 2 * MATRIX), down = matrix(base + 3 * MATRIX);
    T* keys = reinterpret_cast<T*>(shared().pointer[LAYERS * 4 * MATRIX + 2 * layer]);
    T* kept = reinterpret_cast<T*>(shared().pointer[LAYERS * 4 * MATRIX + 2 * layer + 1]);
    const int kind = kind_of[layer];
    Place p;
    p.row = row;
    p.position = position;
    p.at = p.filled = p.room = 0;
#pragma unroll
    for (int k = 0; k < KINDS; k++) {
      if (k == kind) {
        p.at = at[k], p.filled = filled[k], p.room = room[k];
      }
    }
    const Cut cut(p.filled);
    auto prefetch_gate = [&](int begin, int end) {
      prefetch<INTER, HIDDEN>(gate_up, 0, begin / 2, end / 2);
      prefetch<INTER, HIDDEN>(gate_up, INTER, begin / 2, end / 2);
    };
    project<QKV_ROWS, HIDDEN>(for_qkv, qkv, w->qkv, ++tick);
    if (blockIdx.x < cut.parts * KV_HEADS) {
      Attention attention;
      attention.begin(cut, all_head_norms + 2 * layer * HEAD_DIM, all_head_norms + (2 * layer + 1) * HEAD_DIM, keys, kept, p);
      __syncthreads(); // of the parts of the product
      attention.finish(cut, w->qkv, tops, values, keys, kept, rope_of[layer], p, tick);
      arrive(w);
    }
    due += cut.parts * KV_HEADS < BLOCKS ? cut.parts * KV_HEADS : BLOCKS;
    tick++;
    OProduct for_o;
    for_o.begin(o);
    prefetch_gate(0, FIRST);
    wait(w, due);
    combine(cut, tops, values, tick);
    project<HIDDEN, Q_ROWS>(for_o, o, w->out, ++tick);
    arrive(w);
    due += BLOCKS;
    GateProduct for_gate;
    read_norm(layer_norms + HIDDEN, before);
    if (POST_NORM) {
      read_norm(layer_norms + 2 * HIDDEN, post);
    }
    for_gate.begin(gate_up);
    prefetch_gate(FIRST, SECOND);
    wait(w, due);
    add(stream, w->out, post, which, tick);
    norm(stream, before, which);
    project_gate(for_gate, gate_up, w->gated, ++tick);
    arrive(w);
    due += BLOCKS;
    DownProduct for_down;
    for_down.begin(down);
    prefetch<HIDDEN, INTER>(down, 0, 0, DOWN);
    wait(w, due);
    take_gated(w->gated, tick);
    project<HIDDEN, INTER>(for_down, down, w->out, ++tick);
    arrive(w);
    due += BLOCKS;
    read_norm(layer_norms + NORMS * HIDDEN, before); // of the next layer, or the last norm
    if (POST_NORM) {
      read_norm(layer_norms + 3 * HIDDEN, post);
    }
    for_qkv.begin(matrix(layer + 1 < LAYERS ? base + 4 * MATRIX : base));
    wait(w, due);
    add(stream, w->out, post, which, tick);
    norm(stream, before, which);
  }
  T* all_logits = static_cast<T*>(logits);
  HeadProduct for_head;
  for_head.begin(output);
  project_head(for_head, output, all_logits, w, ++tick);
  arrive(w);
  const unsigned found = most_likely(all_logits, w, tick, due + BLOCKS);
  if (lane == 0 && found != NOBODY) {
    atomicMin(&w->best, found);
  }
  __threadfence();
  __syncthreads();
  int last = 0; // whether this is the last block: then nobody reads the workspace any more
  if (threadIdx.x == 0 && atomicAdd(&w->done, 1u) == BLOCKS - 1) {
    __threadfence();
    const unsigned best_id = atomicExch(&w->best, NOBODY);
    *static_cast<unsigned*>(best) = best_id == NOBODY ? 0 : best_id;
    w->done = w->arrived = 0;
    w->ticks = tick < LAST_TICK ? tick : 0;
    last = 1;
  }
  if (tick >= LAST_TICK && __syncthreads_or(last)) { // old words must not pass for new ones
    unsigned* words = reinterpret_cast<unsigned*>(w) + 4;
    for (int i = threadIdx.x; i < WORKSPACE_WORDS - 4; i += THREADS) {
      words[i] = 0;
    }
  }
}
