// The C face: products, packing, and one step of a whole decoder for a few requests of one token each, in one parallel region.
//
// A layer is a handful of phases with a barrier behind each; within a phase threads claim pieces until there are none. Every phase of a
// step has a counter of its own, so nothing is reset while the step runs.
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "team.h"

namespace {

const Isa *isa = nullptr;

template <class T>
T *room(int64_t count) {  // zeros, on a cache line of their own
  const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
  void *p = aligned_alloc(64, bytes);
  if (p) memset(p, 0, bytes);
  return (T *)p;
}

int64_t wide(int64_t columns) { return (columns + 63) / 64 * 64; }

int form_of(const QnWeight &w) { return !w.rows ? 0 : w.format == QN_BF16 ? isa->bf16_form : w.format >= QN_INT8 ? FORM_Q : 0; }

struct Buffer {  // activations that the next product reads
  Acts a{};
  bool make(int64_t rows, int64_t columns, int forms = FORM_H | FORM_Q, bool floats = true) {
    a.stride = wide(columns);
    const int64_t n = rows * a.stride, f = floats ? n : 0, h = forms & FORM_H ? n : 0, q = forms & FORM_Q ? n : 0;
    a.f = room<float>(f);
    a.h = room<uint16_t>(h);
    a.q = room<int8_t>(q);
    a.d = room<float>(q / QN_BLOCK);
    a.s = room<int32_t>(q / QN_BLOCK);
    return a.f && a.h && a.q && a.d && a.s;
  }
  ~Buffer() {
    free(a.f);
    free(a.h);
    free(a.q);
    free(a.d);
    free(a.s);
  }
};

constexpr int FEW = 2;  // up to so many tokens every thread norms and quantizes for itself: cheaper than a barrier

int piece(int rows, int tokens, int threads) {  // rows of one work item: small enough that nobody waits long for the last one
  const int least = tokens > FEW ? 2 * QN_TILE : QN_TILE, n = rows / (threads * 4) / least * least;
  return n < least ? least : n > QN_CHUNK ? QN_CHUNK : n;
}

// Pieces 0 .. all - 1 of one phase, claimed one by one: a thread's own stretch first, so that it reads memory in order, then what others
// have left. `counters` is one for each thread.
struct Claim {
  Counter *counters;
  int index, size, all, behind = 0;
  int next() {
    for (; behind < size; behind++) {
      const int64_t owner = (index + behind) % size;
      const int first = (int)(all * owner / size), end = (int)(all * (owner + 1) / size);
      const int at = first + counters[owner].next.fetch_add(1, std::memory_order_relaxed);
      if (at < end) return at;
    }
    return -1;
  }
};

void run_jobs(const Job *jobs, int count, int tokens, Counter *counters, int index, int size) {
  int pieces[3], all = 0;
  for (int i = 0; i < count; i++) {
    const int each = piece(jobs[i].w->rows, tokens, size);
    all += pieces[i] = (jobs[i].w->rows + each - 1) / each;
  }
  Claim claim = {counters, index, size, all};
  for (int at; (at = claim.next()) >= 0;) {
    int i = 0;
    for (; at >= pieces[i]; i++) at -= pieces[i];
    const int rows = jobs[i].w->rows, each = piece(rows, tokens, size), r0 = at * each;
    isa->chunk(&jobs[i], r0, r0 + each < rows ? r0 + each : rows, tokens);
  }
}

constexpr int PHASES = 10, COLUMNS = 1024;  // of a layer; and how many columns of activations are one work item

struct Inputs {  // what the products read: q k v (and the head), the feed-forward part beside attention, o, down
  Buffer normed, beside, mixed, hidden;
  bool make(int64_t rows, int64_t width, int64_t inner, int64_t feed) {
    return normed.make(rows, width) && beside.make(rows, width) && mixed.make(rows, inner) && hidden.make(rows, feed);
  }
};

struct Plan {
  QnSpec spec;
  QnLayer *layers;
  Team team;
  Counter *counters;
  Inputs shared, *own;  // own: a thread each, of FEW tokens
  bool norms_behind;    // a norm stands behind a part, whose sum only one thread may write
  float *q, *k, *v, *part, *scratch;
  int64_t inner, inner_kv, scratch_each;
  // of the running step
  int tokens;
  float *x, *out, *logits;
  const int32_t *positions, *tables;
  int64_t table_stride;
  bool chained;  // some rows may stand behind one another in one text: all keys are there before any row attends

  ~Plan() {
    free(layers);
    free(counters);
    free(q);
    free(k);
    free(v);
    free(part);
    free(scratch);
    delete[] own;
  }
  float *row(int m) { return x + (int64_t)m * spec.width; }
};

struct Thread {  // where one thread stands in the step; all of them go through the same phases
  Plan *p;
  int index, phase = 0;
  bool few;
  Acts normed, beside, mixed, hidden;

  Thread(Plan *plan, int number) : p(plan), index(number) {
    few = p->team.size > 1 && p->tokens <= FEW && !p->norms_behind;
    const Inputs &in = few ? p->own[index] : p->shared;
    normed = in.normed.a, beside = in.beside.a, mixed = in.mixed.a, hidden = in.hidden.a;
    mixed.f = p->shared.mixed.a.f, hidden.f = p->shared.hidden.a.f;  // written by all
  }
  Counter *counters() { return p->counters + (int64_t)phase * p->spec.threads; }
  void end() {
    p->team.wait();
    phase++;
  }
  template <class F>
  void each(int count, F work) {
    Claim claim = {counters(), index, p->team.size, count};
    for (int i; (i = claim.next()) >= 0;) work(i);
    end();
  }
  template <class F>
  void rows(F work) {  // once for each token: by one thread, or by each thread for itself
    if (!few) return each(p->tokens, work);
    for (int m = 0; m < p->tokens; m++) work(m);
  }
  void products(const Job *jobs, int count) {
    run_jobs(jobs, count, p->tokens, counters(), index, p->team.size);
    end();
  }
  void prepare(const Acts *a, int columns, int forms) {
    if (!forms) return;
    if (few) return rows([&](int m) { isa->prepare(a, a->f + m * a->stride, m, 0, columns, forms); });
    const int parts = (columns + COLUMNS - 1) / COLUMNS;
    each(p->tokens * parts, [&](int i) {
      const int c0 = i % parts * COLUMNS, c1 = c0 + COLUMNS < columns ? c0 + COLUMNS : columns;
      isa->prepare(a, a->f + i / parts * a->stride, i / parts, c0, c1, forms);
    });
  }
};

const QnWeight *gate_of(const QnLayer &l) { return l.gate.rows ? &l.gate : nullptr; }

void normed_into(Plan *p, const QnNorm *norm, const Acts *a, int m, int forms) {
  isa->norm(norm, p->row(m), p->spec.width, a->f + m * a->stride, 0);
  if (forms) isa->prepare(a, a->f + m * a->stride, m, 0, p->spec.width, forms);
}

void attention(Thread *t, const QnLayer &l) {
  Plan *p = t->p;
  const int group = l.heads / l.kv_heads, pairs = p->tokens * l.kv_heads;
  int parts = 1;  // query heads that share a key head stay together unless threads would have nothing to do
  while (pairs * parts < p->team.size && parts * 2 <= group) parts *= 2;
  float *scratch = p->scratch + t->index * p->scratch_each;
  auto attend = [&](int m, int head, int h0, int h1, int write) {
    isa->attend(&l, &p->spec, p->q + m * p->inner, p->k + m * p->inner_kv, p->v + m * p->inner_kv, p->positions[m],
                p->tables + m * p->table_stride, head, h0, h1, write, t->mixed.f + m * t->mixed.stride, scratch);
  };
  if (p->chained) t->each(pairs, [&](int i) { attend(i / l.kv_heads, i % l.kv_heads, 0, 0, 1); });
  t->each(pairs * parts, [&](int i) {
    const int part = i % parts, head = i / parts % l.kv_heads, m = i / parts / l.kv_heads;
    const int h0 = head * group + group * part / parts, h1 = head * group + group * (part + 1) / parts;
    attend(m, head, h0, h1, part == 0 && !p->chained);
  });
}

// A product added to the residual stream, or put beside it where a norm comes first; the next norm then adds it.
void residual(Thread *t, const QnWeight &w, const QnNorm &after, const Acts *a, int forms) {
  Plan *p = t->p;
  t->prepare(a, w.cols, forms);
  const bool direct = after.kind == QN_NO_NORM;
  Job job = {&w, nullptr, a, direct ? p->x : p->part, nullptr, p->spec.width, direct ? INTO_ADD : INTO_STORE, QN_NONE, 0, 0};
  t->products(&job, 1);
}

void layer(Thread *t, const QnLayer &l, const QnNorm *pending) {
  Plan *p = t->p;
  const int width = p->spec.width, in = form_of(l.q) | form_of(l.k) | form_of(l.v), feed = form_of(l.up) | form_of(l.gate);
  const Acts *input = &t->normed, *other = l.parallel == 1 ? &t->beside : input;
  t->rows([&](int m) {
    if (pending->kind) isa->norm(pending, p->part + (int64_t)m * width, width, p->row(m), 1);
    normed_into(p, &l.norm_attn, input, m, in | (l.parallel == 2 ? feed : 0));
    if (l.parallel == 1) normed_into(p, &l.norm_ffn, other, m, feed);
  });
  const Job qkv[3] = {{&l.q, nullptr, input, p->q, nullptr, p->inner, INTO_STORE, QN_NONE, l.clip, 0},
                      {&l.k, nullptr, input, p->k, nullptr, p->inner_kv, INTO_STORE, QN_NONE, l.clip, 0},
                      {&l.v, nullptr, input, p->v, nullptr, p->inner_kv, INTO_STORE, QN_NONE, l.clip, 0}};
  t->products(qkv, 3);
  attention(t, l);
  residual(t, l.o, l.norm_attn_out, &t->mixed, form_of(l.o));
  if (!l.parallel)
    t->rows([&](int m) {
      if (l.norm_attn_out.kind) isa->norm(&l.norm_attn_out, p->part + (int64_t)m * width, width, p->row(m), 1);
      normed_into(p, &l.norm_ffn, other, m, feed);
    });
  const Job up = {&l.up, gate_of(l), other, t->hidden.f, nullptr, t->hidden.stride, INTO_ACT, l.act, 0, 0};
  t->products(&up, 1);
  residual(t, l.down, l.norm_ffn_out, &t->hidden, form_of(l.down));
}

void step(void *context, int index) {
  Plan *p = (Plan *)context;
  const QnSpec &s = p->spec;
  Thread t(p, index);
  const QnNorm none = {QN_NO_NORM, 0, nullptr, nullptr};
  const QnNorm *pending = &none;
  for (int i = 0; i < s.count; i++) {
    layer(&t, p->layers[i], pending);
    pending = &p->layers[i].norm_ffn_out;
  }
  const Acts *a = &t.normed;
  t.rows([&](int m) {
    if (pending->kind) isa->norm(pending, p->part + (int64_t)m * s.width, s.width, p->row(m), 1);
    float *hidden = a->f + m * a->stride;
    isa->norm(&s.final_norm, p->row(m), s.width, hidden, 0);
    if (p->out && (!t.few || !index)) memcpy(p->out + (int64_t)m * s.width, hidden, s.width * sizeof(float));
    if (!p->logits) return;
    if (s.head_scale != 1.0f)
      for (int i = 0; i < s.width; i++) hidden[i] *= s.head_scale;
    isa->prepare(a, hidden, m, 0, s.width, form_of(s.head));
  });
  if (!p->logits) return;
  const Job head = {&s.head, nullptr, a, p->logits, nullptr, s.head.rows, INTO_STORE, QN_NONE, 0, s.head_softcap};
  t.products(&head, 1);
}

struct Product {
  Job job;
  Acts a;
  const void *x;
  int tokens, forms, bf16;
  float *rows;  // one a thread, where only a form of it is kept
  Counter *counters;
  Team team;
};

void multiply(void *context, int index) {
  Product *p = (Product *)context;
  const int64_t cols = p->job.w->cols;
  Claim claim = {p->counters, index, p->team.size, p->tokens};
  for (int64_t m; (m = claim.next()) >= 0;) {
    float *row = p->forms ? p->rows + index * p->a.stride : p->a.f + m * p->a.stride;
    const float *given = (const float *)p->x + m * cols;
    if (p->bf16)
      isa->widen((const uint16_t *)p->x + m * cols, cols, row);
    else if (p->forms != FORM_Q)
      memcpy(row, given, cols * sizeof(float));
    isa->prepare(&p->a, p->bf16 || p->forms != FORM_Q ? row : given, (int)m, 0, cols, p->forms);
  }
  p->team.wait();
  run_jobs(&p->job, 1, p->tokens, p->counters + p->team.size, index, p->team.size);
}

uint16_t to_f16(float x) {  // rounded to the nearest even
  uint32_t u, sign;
  memcpy(&u, &x, 4);
  sign = u >> 16 & 0x8000;
  u &= 0x7fffffff;
  if (u >= 0x47800000) return (uint16_t)(sign | (u > 0x7f800000 ? 0x7e00 : 0x7c00));
  if (u < 0x38800000) {  // subnormal: the sum leaves the digits that fit
    float y;
    memcpy(&y, &u, 4);
    y += 0.5f;
    memcpy(&u, &y, 4);
    return (uint16_t)(sign | (u - 0x3f000000));
  }
  u += 0xfff + (u >> 13 & 1);
  return (uint16_t)(sign | ((u - 0x38000000) >> 13));
}

float from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

struct Pack {
  const void *w;
  int64_t rows, cols;
  int bf16, four;
  uint8_t *data;
  uint16_t *scales;
  Counter next;
};

void pack_block(const Pack *p, int64_t row, int64_t b, uint8_t *q, uint16_t *scale) {
  float x[QN_BLOCK], most = 0, signed_most = 0;
  for (int i = 0; i < QN_BLOCK; i++) {
    const int64_t at = row * p->cols + b * QN_BLOCK + i;
    x[i] = p->bf16 ? from_bf16(((const uint16_t *)p->w)[at]) : ((const float *)p->w)[at];
    const float a = x[i] < 0 ? -x[i] : x[i];
    if (a > most) most = a, signed_most = x[i];
  }
  const float d = p->four ? signed_most / -8.0f : most / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  *scale = to_f16(d);
  for (int i = 0; i < QN_BLOCK; i++) {
    const int group = i / 4, byte = (int)(row % QN_TILE) * 4 + i % 4;
    const float y = x[i] * inverse;
    if (p->four) {
      int v = (int)(y + 8.5f);
      q[group % 4 * 64 + byte] |= (uint8_t)((v > 15 ? 15 : v < 0 ? 0 : v) << (group / 4 * 4));
    } else {
      q[group * 64 + byte] = (uint8_t)(int8_t)__builtin_roundf(y);
    }
  }
}

void pack(void *context, int) {
  Pack *p = (Pack *)context;
  const int64_t blocks = p->cols / QN_BLOCK, bytes = p->four ? 256 : 512, tiles = (p->rows + QN_TILE - 1) / QN_TILE;
  for (int64_t tile; (tile = p->next.next.fetch_add(1)) < tiles;)
    for (int64_t row = tile * QN_TILE; row < p->rows && row < (tile + 1) * QN_TILE; row++)
      for (int64_t b = 0; b < blocks; b++)
        pack_block(p, row, b, p->data + (tile * blocks + b) * bytes, p->scales + (tile * blocks + b) * QN_TILE + row % QN_TILE);
}

struct Read {
  const uint8_t *p;
  int64_t bytes;
  Counter next;
  std::atomic<int64_t> sum{0};
};

}  // namespace

extern "C" {

const char *qn_sources() { return QN_SOURCES; }

// The instruction sets that this library holds and this processor runs, best first, as one line of names.
const char *qn_supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // every one of those has f16c too
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return "avx512bf16 avx512 avx2 portable";
  return avx512 ? "avx512 avx2 portable" : avx2 ? "avx2 portable" : "portable";
#elif defined(__aarch64__)
  return "neondot neon portable";  // Python takes neondot away where the system does not report it
#else
  return "portable";
#endif
}

int qn_select(const char *name) {
  const Isa *all[] = {
      isa_portable(),
#if defined(__x86_64__)
      isa_avx2(), isa_avx512(), isa_avx512bf16(),
#elif defined(__aarch64__)
      isa_neon(), isa_neondot(),
#endif
  };
  for (const Isa *one : all)
    if (!strcmp(one->name, name)) return isa = one, 1;
  return 0;
}
const char *qn_selected() { return isa ? isa->name : ""; }
int qn_bf16_rounds() { return isa->bf16_form != 0; }
void qn_sizes(int32_t *sizes) {
  sizes[0] = sizeof(QnWeight), sizes[1] = sizeof(QnNorm), sizes[2] = sizeof(QnPool), sizes[3] = sizeof(QnLayer), sizes[4] = sizeof(QnSpec);
}

void qn_openmp(void *parallel, void *count, void *index) {
  openmp = {(void (*)(void (*)(void *), void *, unsigned, unsigned))parallel, (int (*)())count, (int (*)())index};
}

// y (tokens, rows) = act(x (tokens, cols) W' + bias), x and y both in fp32 or both in bf16. 0: no memory.
int qn_product(const QnWeight *w, const void *x, void *y, int bf16, int tokens, int act, int threads) {
  Buffer b;
  Product p;
  p.forms = form_of(*w);
  const bool made = b.make(tokens, w->cols, p.forms, !p.forms);
  p.job = {w, nullptr, &b.a, (float *)y, bf16 ? (uint16_t *)y : nullptr, w->rows, act ? INTO_ACT : INTO_STORE, act, 0, 0};
  p.a = b.a, p.x = x, p.tokens = tokens, p.bf16 = bf16;
  p.rows = room<float>(threads * b.a.stride);
  p.counters = room<Counter>(2 * threads);
  if (made && p.rows && p.counters) p.team.run(threads, multiply, &p);
  const int done = made && p.rows && p.counters;
  free(p.rows);
  free(p.counters);
  return done;
}

void qn_norm(const QnNorm *norm, const float *x, float *y, int tokens, int width) {
  for (int m = 0; m < tokens; m++) isa->norm(norm, x + (int64_t)m * width, width, y + (int64_t)m * width, 0);
}

// W (rows, cols), fp32 or bf16, into zeroed `data` and `scales`.
void qn_pack(const void *w, int bf16, int64_t rows, int64_t cols, int four, uint8_t *data, uint16_t *scales, int threads) {
  Pack p = {w, rows, cols, bf16, four, data, scales, {}};
  Team team;
  team.run(threads, pack, &p);
}

double qn_read(const uint8_t *data, int64_t bytes, int threads) {
  Read r;
  r.p = data, r.bytes = bytes;
  Team team;
  team.run(
      threads, [](void *c, int) {
        Read *r = (Read *)c;
        const int64_t each = 1 << 17;
        double sum = 0;
        for (int64_t at; (at = r->next.next.fetch_add(1) * each) < r->bytes;)
          sum += isa->read(r->p + at, at + each < r->bytes ? each : r->bytes - at);
        r->sum.fetch_add((int64_t)sum);
      },
      &r);
  return (double)r.sum.load();
}

Plan *qn_plan(const QnSpec *spec) {
  Plan *p = new Plan();
  p->spec = *spec;
  p->layers = room<QnLayer>(spec->count);
  int64_t inner = 1, inner_kv = 1, hidden = 1, scratch = 1;
  for (int i = 0; i < spec->count; i++) {
    const QnLayer &l = spec->layers[i];
    const int64_t need = attend_scratch(l.head_dim, l.heads / l.kv_heads, spec->block);
    inner = l.q.rows > inner ? l.q.rows : inner;
    inner_kv = l.k.rows > inner_kv ? l.k.rows : inner_kv;
    hidden = l.up.rows > hidden ? l.up.rows : hidden;
    scratch = need > scratch ? need : scratch;
    p->norms_behind |= l.norm_attn_out.kind || l.norm_ffn_out.kind;
    if (p->layers) p->layers[i] = l;
  }
  const int64_t rows = spec->max_rows;
  p->inner = inner, p->inner_kv = inner_kv, p->scratch_each = wide(scratch) + 64;
  p->counters = room<Counter>((int64_t)(spec->count * PHASES + 2) * spec->threads);
  p->q = room<float>(rows * inner);
  p->k = room<float>(rows * inner_kv);
  p->v = room<float>(rows * inner_kv);
  p->part = room<float>(rows * spec->width);
  p->scratch = room<float>(p->scratch_each * spec->threads);
  p->own = new Inputs[spec->threads];
  bool made = p->shared.make(rows, spec->width, inner, hidden);
  for (int i = 0; i < spec->threads; i++) made = p->own[i].make(FEW, spec->width, inner, hidden) && made;
  if (made && p->layers && p->counters && p->q && p->k && p->v && p->part && p->scratch) return p;
  delete p;
  return nullptr;
}
void qn_plan_free(Plan *p) { delete p; }

// Rotary tables may grow while a plan lives.
void qn_plan_rotary(Plan *p, int layer, const float *cos, const float *sin) { p->layers[layer].cos = cos, p->layers[layer].sin = sin; }

// One step for `tokens` requests: x (tokens, width) embedded tokens, changed on the way; `hidden` (tokens, width) and `logits` (tokens, V)
// are each written where they are not null. tables (tokens, table_stride): the blocks of each request. Returns 0, or the number (from 1) of
// the first request whose blocks are not all in the pool, and then nothing was touched. threads: at most those of the plan.
int qn_step(Plan *p, int tokens, float *x, const int32_t *positions, const int32_t *tables, int64_t table_stride, float *hidden, float *logits,
            int threads) {
  for (int m = 0; m < tokens; m++)
    for (int64_t i = 0; i <= positions[m] / p->spec.block; i++)
      if (i >= table_stride || tables[m * table_stride + i] < 0 || tables[m * table_stride + i] >= p->spec.blocks) return m + 1;
  p->tokens = tokens, p->x = x, p->positions = positions, p->tables = tables, p->table_stride = table_stride;
  p->out = hidden, p->logits = logits;
  p->chained = false;
  for (int m = 1; m < tokens; m++) p->chained |= tables[m * table_stride] == tables[(m - 1) * table_stride];
  for (int i = 0; i < (p->spec.count * PHASES + 2) * p->spec.threads; i++) p->counters[i].next.store(0, std::memory_order_relaxed);
  p->team.run(threads < p->spec.threads ? threads : p->spec.threads, step, p);
  return 0;
}
}
