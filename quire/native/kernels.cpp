// The kernels of one instruction set; compiled once for each (see build.py), with -DQN_TABLE naming the table it exports.
//
// A product reads its weights from memory once, whatever the number of tokens: a few rows of W stay in the nearest cache while tile after
// tile of tokens passes them. Every number is summed in one fixed order, so tiles of any size give the same bits.
#include "simd.h"

namespace {

// ---- row-major products ------------------------------------------------------------------------------------------------------------

// How a row-major format is multiplied: vectors of weights, of activations, and the product of the two added to a sum.
template <class Number>
struct Widened {  // fp32, and bf16 without an instruction of its own
  typedef Number T;
  typedef vf V;
  static constexpr int STEP = W;
  static const float *row(const Acts *x, int m) { return x->f + m * x->stride; }
  static QN_INLINE V all(const T *w) { return load(w); }
  static QN_INLINE V some(const T *w, int64_t n) { return load_n(w, n); }
  static QN_INLINE vf add(V w, const float *x, vf sum) { return fma(w, load(x), sum); }
};
#if defined(QN_BF16DP)
struct Pairs {
  typedef uint16_t T;
  typedef __m512i V;
  static constexpr int STEP = 2 * W;
  static const uint16_t *row(const Acts *x, int m) { return x->h + m * x->stride; }
  static QN_INLINE V all(const T *w) { return _mm512_loadu_si512(w); }
  static QN_INLINE V some(const T *w, int64_t n) { return _mm512_maskz_loadu_epi16((1u << n) - 1, w); }
  static QN_INLINE vf add(V w, const uint16_t *x, vf sum) {
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_loadu_si512(x));
  }
};
typedef Pairs Bf16;
#else
typedef Widened<uint16_t> Bf16;
#endif

// R rows against M tokens: acc[m][r]. The rows behind are asked for while these are computed.
template <class F, int R, int M>
void dense_tile(const typename F::T *w, int64_t cols, const Acts *x, int m0, float *out, int64_t stride) {
  vf acc[M][R];
  typename F::V v[R];
  Each<M>::run([&](int m) QN_INLINE { Each<R>::run([&](int r) QN_INLINE { acc[m][r] = zero(); }); });
  const auto *xs = F::row(x, m0);
  const int64_t xstep = x->stride;
  const auto multiply = [&](int64_t j) QN_INLINE {
    Each<M>::run([&](int m) QN_INLINE {
      Each<R>::run([&](int r) QN_INLINE { acc[m][r] = F::add(v[r], xs + m * xstep + j, acc[m][r]); });
    });
  };
  int64_t j = 0;
  for (; j + F::STEP <= cols; j += F::STEP) {
    Each<R>::run([&](int r) QN_INLINE {
      v[r] = F::all(w + r * cols + j);
      __builtin_prefetch(w + (r + R) * cols + j);
    });
    multiply(j);
  }
  if (j < cols) {
    Each<R>::run([&](int r) QN_INLINE { v[r] = F::some(w + r * cols + j, cols - j); });
    multiply(j);
  }
  Each<M>::run([&](int m) QN_INLINE { sums<R>(acc[m], out + m * stride); });
}

template <class F, int R>
void dense_rows(const typename F::T *w, int64_t cols, const Acts *x, int tokens, float *out, int64_t stride) {
  int m = 0;
  for (; m + 4 <= tokens; m += 4) dense_tile<F, R, 4>(w, cols, x, m, out + m * stride, stride);
  if (tokens - m >= 2) {
    dense_tile<F, R, 2>(w, cols, x, m, out + m * stride, stride);
    m += 2;
  }
  if (m < tokens) dense_tile<F, R, 1>(w, cols, x, m, out + m * stride, stride);
}

template <class F>
void dense(const QnWeight *w, int r0, int r1, const Acts *x, int tokens, float *out, int64_t stride) {
  const typename F::T *data = (const typename F::T *)w->data;
  int r = r0;
  for (; r + 4 <= r1; r += 4) dense_rows<F, 4>(data + (int64_t)r * w->cols, w->cols, x, tokens, out + r - r0, stride);
  for (; r < r1; r++) dense_rows<F, 1>(data + (int64_t)r * w->cols, w->cols, x, tokens, out + r - r0, stride);
}

// ---- blocks of 32 with a scale ------------------------------------------------------------------------------------------------------

// The weights of one block for W rows of a tile, as `dot4` takes them: four columns of each row at a time.
template <bool FOUR>
inline QN_INLINE void block_of(const uint8_t *q, vb *w) {
  if (FOUR)
    Each<4>::run([&](int g) QN_INLINE {
      const vb both = get<vb>(q + g * 64);
      w[g] = low_halves(both);
      w[g + 4] = high_halves(both);
    });
  else
    Each<8>::run([&](int g) QN_INLINE { w[g] = whole_bytes(get<vb>(q + g * 64)); });
}

constexpr int64_t bytes_of(bool four) { return four ? 256 : 512; }  // a block of a tile

// Where M tokens' numbers of the next block stand.
struct Place {
  const int8_t *q;
  const float *d;
  const int32_t *s;
  int64_t step, narrow;
  Place(const Acts *x, int64_t token, int64_t block) : step(x->stride), narrow(x->stride / QN_BLOCK) {
    q = x->q + token * step + block * QN_BLOCK, d = x->d + token * narrow + block, s = x->s + token * narrow + block;
  }
  void next() { q += QN_BLOCK, d++, s++; }
};

// One block of V vectors of rows against M tokens, added to their totals: the one order in which every sum runs.
template <bool FOUR, int M, int V>
inline QN_INLINE void add_block(const vb (*w)[V], const vf *scale, const Place &x, vf (*total)[V]) {
  vi acc[M][V];
  Each<M>::run([&](int m) QN_INLINE {
    const vi from = start(FOUR, x.s[m * x.narrow]);
    Each<V>::run([&](int v) QN_INLINE { acc[m][v] = from; });
  });
  Each<8>::run([&](int g) QN_INLINE {
    Each<M>::run([&](int m) QN_INLINE {
      const int32_t columns = four(x.q + m * x.step + g * 4);
      Each<V>::run([&](int v) QN_INLINE { acc[m][v] = dot4<!FOUR>(acc[m][v], w[g][v], columns); });
    });
  });
  Each<V>::run([&](int v) QN_INLINE {
    Each<M>::run([&](int m) QN_INLINE { total[m][v] = fma(scaled(acc[m][v], scale[v]), set1(x.d[m * x.narrow]), total[m][v]); });
  });
}

template <bool FOUR, int M>
void packed_tile(const uint8_t *q, const uint16_t *s, int64_t blocks, const Acts *acts, int m0, float *out, int64_t stride) {
  vf total[NV][M][1];
  Each<NV>::run([&](int v) QN_INLINE { Each<M>::run([&](int m) QN_INLINE { total[v][m][0] = zero(); }); });
  Place x(acts, m0, 0);
  for (int64_t b = 0; b < blocks; b++, q += bytes_of(FOUR), s += QN_TILE, x.next()) {
    if (m0 == 0)
      for (int64_t line = 0; line < bytes_of(FOUR); line += 64) __builtin_prefetch(q + 4096 + line);
    Each<NV>::run([&](int v) QN_INLINE {
      vb w[8][1];
      block_of<FOUR>(q + v * 4 * W, w[0]);
      const vf scale = times(FOUR, load_f16(s + v * W));
      add_block<FOUR, M, 1>(w, &scale, x, total[v]);
    });
  }
  Each<NV>::run([&](int v) QN_INLINE { Each<M>::run([&](int m) QN_INLINE { store(out + m * stride + v * W, total[v][m][0]); }); });
}

// For many tokens: some tiles' weights and scales made ready once, a stretch of blocks at a time, so that they stay in the nearest cache
// while MANY tokens after MANY pass.
constexpr int STRETCH = 32, TILES = WIDE / NV, SPAN = 32 * MANY;
struct Ready {
  vb w[STRETCH][8][WIDE];
  vf scale[STRETCH][WIDE];
};

template <bool FOUR>
void make_ready(const uint8_t *q, const uint16_t *s, int64_t blocks, int count, Ready *to) {
  for (int b = 0; b < count; b++, q += bytes_of(FOUR), s += QN_TILE)
    Each<WIDE>::run([&](int v) QN_INLINE {
      const int64_t tile = v / NV * blocks;
      vb w[8];
      block_of<FOUR>(q + tile * bytes_of(FOUR) + v % NV * 4 * W, w);
      Each<8>::run([&](int g) QN_INLINE { to->w[b][g][v] = w[g]; });
      to->scale[b][v] = times(FOUR, load_f16(s + tile * QN_TILE + v % NV * W));
    });
}

// Blocks b0 .. b0 + count - 1 added to what `out` holds of the blocks before them. next: weights to ask for meanwhile, or null.
template <bool FOUR>
void ready_tile(const Ready *r, int64_t b0, int count, const Acts *acts, int m0, float *out, int64_t stride, const uint8_t *next, int64_t tile) {
  vf total[MANY][WIDE];
  Each<MANY>::run([&](int m) QN_INLINE {
    Each<WIDE>::run([&](int v) QN_INLINE { total[m][v] = b0 ? load(out + m * stride + v * W) : zero(); });
  });
  Place x(acts, m0, b0);
  for (int b = 0; b < count; b++, x.next()) {
    Each<MANY>::run([&](int m) QN_INLINE { __builtin_prefetch(x.q + (m + MANY) * x.step); });
    for (int64_t t = 0; next && t < TILES; t++)
      for (int64_t line = 0; line < bytes_of(FOUR); line += 64) __builtin_prefetch(next + t * tile + b * bytes_of(FOUR) + line);
    add_block<FOUR, MANY, WIDE>(r->w[b], r->scale[b], x, total);
  }
  Each<MANY>::run([&](int m) QN_INLINE { Each<WIDE>::run([&](int v) QN_INLINE { store(out + m * stride + v * W, total[m][v]); }); });
}

template <bool FOUR>
void packed(const QnWeight *w, int r0, int r1, const Acts *x, int tokens, float *out, int64_t stride) {
  const int64_t blocks = w->cols / QN_BLOCK, tile = blocks * bytes_of(FOUR);
  Ready ready;
  for (int r = r0; r < r1;) {  // the last tile is filled up with rows of zeros
    const uint8_t *q = (const uint8_t *)w->data + r / QN_TILE * tile;
    const uint16_t *s = w->scales + r / QN_TILE * blocks * QN_TILE;
    float *to = out + r - r0;
    const bool many = tokens >= 2 * MANY && r + (TILES - 1) * QN_TILE < r1;
    int m = 0;
    for (int64_t b = 0; many && b < blocks; b += STRETCH) {
      const int count = blocks - b < STRETCH ? (int)(blocks - b) : STRETCH;
      make_ready<FOUR>(q + b * bytes_of(FOUR), s + b * QN_TILE, blocks, count, &ready);
      const uint8_t *next = b + count < blocks ? q + (b + count) * bytes_of(FOUR) : q + TILES * tile;
      for (m = 0; m + MANY <= tokens; m += MANY)
        ready_tile<FOUR>(&ready, b, count, x, m, to + m * stride, stride, m ? nullptr : next, tile);
    }
    for (int t = 0, left = m; t < (many ? TILES : 1); t++, r += QN_TILE, q += tile, s += blocks * QN_TILE, to += QN_TILE) {
      for (m = left; m + 8 <= tokens; m += 8) packed_tile<FOUR, 8>(q, s, blocks, x, m, to + m * stride, stride);
      for (; m + 4 <= tokens; m += 4) packed_tile<FOUR, 4>(q, s, blocks, x, m, to + m * stride, stride);
      for (; m < tokens; m++) packed_tile<FOUR, 1>(q, s, blocks, x, m, to + m * stride, stride);
    }
  }
}

void product(const QnWeight *w, int r0, int r1, const Acts *x, int tokens, float *out) {
  switch (w->format) {
    case QN_FP32: return dense<Widened<float>>(w, r0, r1, x, tokens, out, QN_CHUNK);
    case QN_BF16: return dense<Bf16>(w, r0, r1, x, tokens, out, QN_CHUNK);
    case QN_INT8: return packed<false>(w, r0, r1, x, tokens, out, QN_CHUNK);
    default: return packed<true>(w, r0, r1, x, tokens, out, QN_CHUNK);
  }
}

void add_bias(const float *bias, int n, float *y) {
  for (int i = 0; bias && i < n; i++) y[i] += bias[i];
}

Acts behind(const Acts *x, int64_t tokens) {
  const int64_t n = tokens * x->stride, blocks = n / QN_BLOCK;
  return {x->f + n, x->h + n, x->q + n, x->d + blocks, x->s + blocks, x->stride};
}

// Rows r0..r1 of a job (at most QN_CHUNK, r0 a multiple of QN_TILE), for all tokens: so many at a time that they fit on the stack.
void chunk(const Job *job, int r0, int r1, int tokens) {
  alignas(64) float y[SPAN * QN_CHUNK], gate[SPAN * QN_CHUNK];
  const int n = r1 - r0;
  const bool shaped = job->into == INTO_ACT || job->clip > 0 || job->softcap > 0;
  for (int first = 0; first < tokens; first += SPAN) {
    const Acts x = behind(job->x, first);
    const int count = tokens - first < SPAN ? tokens - first : SPAN;
    product(job->w, r0, r1, &x, count, y);
    if (job->gate) product(job->gate, r0, r1, &x, count, gate);
    for (int m = 0; m < count; m++) {
      float *row = y + m * QN_CHUNK, *g = gate + m * QN_CHUNK;
      add_bias(job->w->bias ? job->w->bias + r0 : nullptr, n, row);
      if (job->gate) add_bias(job->gate->bias ? job->gate->bias + r0 : nullptr, n, g);
      for (int i = n; i % W; i++) row[i] = g[i] = 0;
      for (int i = 0; shaped && i < n; i += W) {
        vf v = load(row + i);
        if (job->into == INTO_ACT) v = job->gate ? activate(job->act, load(g + i)) * v : activate(job->act, v);
        if (job->clip > 0) v = vmin(vmax(v, set1(-job->clip)), set1(job->clip));
        if (job->softcap > 0) v = set1(job->softcap) * vtanh(v / set1(job->softcap));
        store(row + i, v);
      }
      const int64_t at = (first + m) * job->stride + r0;
      if (job->narrow) {
        uint16_t *half = (uint16_t *)gate;  // done with
        for (int i = 0; i < n; i += W) store_bf16(half + i, load(row + i));
        memcpy(job->narrow + at, half, n * sizeof(uint16_t));
      } else if (job->into == INTO_ADD) {
        for (int i = 0; i < n; i++) job->out[at + i] += row[i];
      } else {
        memcpy(job->out + at, row, n * sizeof(float));
      }
    }
  }
}

// ---- between the products -----------------------------------------------------------------------------------------------------------

void widen(const uint16_t *from, int64_t n, float *to) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(to + i, load(from + i));
  for (; i < n; i++) to[i] = load_n(from + i, 1)[0];
}

void prepare(const Acts *x, const float *f, int token, int64_t c0, int64_t c1, int forms) {
  if (forms & FORM_H)
    for (int64_t i = c0; i < c1; i += W) store_bf16(x->h + token * x->stride + i, load(f + i));
  if (!(forms & FORM_Q)) return;
  int8_t *q = x->q + token * x->stride;
  float *scales = x->d + token * x->stride / QN_BLOCK;
  int32_t *starts = x->s + token * x->stride / QN_BLOCK;
  for (int64_t i = c0; i < c1; i += QN_BLOCK) {
    vi most = vi{}, total = vi{};  // magnitudes compared as bits: what is not finite is the largest, and the scale will show it
    for (int k = 0; k < QN_BLOCK; k += W) most = vmax(most, get<vi>(f + i + k) & 0x7fffffff);
    const float d = ((vf)(vi{} + highest(most)))[0] / 127.0f, inverse = d > 0x1p-126f ? 1.0f / d : 0.0f;
    for (int k = 0; k < QN_BLOCK; k += W) {
      // rounded to the nearest even, and 1.5 * 2^23 more: the low byte is the whole number
      const vi whole = (vi)(load(f + i + k) * set1(inverse) + set1(12582912.0f));
      total += whole - 0x4b400000;
      store_bytes(q + i + k, whole);
    }
    scales[i / QN_BLOCK] = d;
    starts[i / QN_BLOCK] = start_of(sum(total));
  }
}

struct Moments {
  float mean, factor;
};
Moments moments(const QnNorm *norm, const float *x, int n) {
  vf a = zero(), b = zero();
  int i = 0;
  float mean = 0;
  if (norm->kind == QN_LAYER) {
    for (; i + W <= n; i += W) a = a + load(x + i);
    if (i < n) a = a + load_n(x + i, n - i);
    mean = sum(a) / n;
  }
  for (i = 0; i + W <= n; i += W) {
    vf v = load(x + i) - set1(mean);
    b = fma(v, v, b);
  }
  float square = sum(b);
  for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
  return {mean, 1.0f / sqrtf(square / n + norm->eps)};
}

// The part of a norm from column `from` on: n columns of x (which already starts there) into out.
void scaled(const QnNorm *norm, Moments m, const float *x, int from, int n, float *out, int add) {
  int i = 0;
  const float *w = norm->weight + from, *bias = norm->bias ? norm->bias + from : nullptr;
  for (; i + W <= n; i += W) {
    vf v = (load(x + i) - set1(m.mean)) * set1(m.factor) * load(w + i);
    if (bias) v = v + load(bias + i);
    store(out + i, add ? load(out + i) + v : v);
  }
  for (; i < n; i++) {
    float v = (x[i] - m.mean) * m.factor * w[i] + (bias ? bias[i] : 0.0f);
    out[i] = add ? out[i] + v : v;
  }
}
void norm(const QnNorm *norm, const float *x, int n, float *out, int add) {
  if (norm->kind != QN_NO_NORM) return scaled(norm, moments(norm, x, n), x, 0, n, out, add);
  for (int i = 0; i < n; i++) out[i] = add ? out[i] + x[i] : x[i];
}

// ---- attention ----------------------------------------------------------------------------------------------------------------------

// One head of a query or key: normed, then turned. `all` is the whole row, of `heads` heads.
void ready(const QnLayer *l, const QnNorm *norm, const float *all, int heads, int head, int position, float *out) {
  const int c = l->head_dim, half = l->turned / 2;
  const float *x = all + head * c;
  if (norm->kind == QN_NO_NORM)
    memcpy(out, x, c * sizeof(float));
  else if (l->norm_whole)
    scaled(norm, moments(norm, all, heads * c), x, head * c, c, out, 0);
  else
    scaled(norm, moments(norm, x, c), x, 0, c, out, 0);
  const float *cos = l->cos + (int64_t)position * l->turned, *sin = l->sin + (int64_t)position * l->turned;
  for (int i = 0; i < half; i++) {
    const float a = out[i], b = out[i + half];
    out[i] = a * cos[i] + b * sin[i];
    out[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

// A head's numbers into the cache; `x` then holds what the cache holds.
inline void keep(float *to, float *x, int c, bool write) {
  if (write) memcpy(to, x, c * sizeof(float));
}
inline void keep(uint16_t *to, float *x, int c, bool write) {
  for (int i = 0; i < c; i++) {
    const vu bits = bf16_bits(set1(x[i]));
    if (write) to[i] = (uint16_t)bits[0];
    x[i] = ((vf)(bits << 16))[0];
  }
}

struct Heads {  // running softmax of the query heads that share a key head; rows of `wide` floats
  int count, c, wide, room;
  float *q, *acc, *score, *most, *total;
};

// scores of n keys (rows of `wide` floats, zeros behind the head's channels; filled up to a multiple of four rows) for each query head
void scores(const Heads *h, const float *keys, int n) {
  for (int i = 0; i < h->count; i++)
    for (int t = 0; t < n; t += 4) {
      vf acc[4];
      const float *q = h->q + i * h->wide, *k = keys + t * h->wide;
      const int wide = h->wide;
      Each<4>::run([&](int r) QN_INLINE { acc[r] = zero(); });
      for (int c = 0; c < wide; c += W) {
        const vf x = load(q + c);
        Each<4>::run([&](int r) QN_INLINE { acc[r] = fma(x, load(k + r * wide + c), acc[r]); });
      }
      sums4(acc[0], acc[1], acc[2], acc[3], h->score + i * h->room + t);
    }
}

template <int N>
inline void add_values(float *acc, const float *p, float factor, const float *values, int n, int wide) {
  vf a[N];
  Each<N>::run([&](int c) QN_INLINE { a[c] = load(acc + c * W) * set1(factor); });
  for (int t = 0; t < n; t++) {
    const vf share = set1(p[t]);
    Each<N>::run([&](int c) QN_INLINE { a[c] = fma(share, load(values + t * wide + c * W), a[c]); });
  }
  Each<N>::run([&](int c) QN_INLINE { store(acc + c * W, a[c]); });
}

// n keys from position `first` on, and their values: the running softmax takes them in.
void page(const QnLayer *l, Heads *h, int h0, const float *keys, const float *values, int first, int n, int position) {
  scores(h, keys, n);
  for (int i = 0; i < h->count; i++) {
    float *s = h->score + i * h->room;
    vf most = set1(-INFINITY);
    const float slope = l->slopes ? l->slopes[h0 + i] : 0.0f;
    for (int t = 0; t < n; t += W) {
      for (int j = n; j < t + W; j++) s[j] = -INFINITY;
      if (l->softcap > 0) store(s + t, set1(l->softcap) * vtanh(load(s + t) / set1(l->softcap)));
      if (l->slopes)
        for (int j = t; j < t + W && j < n; j++) s[j] += slope * (float)(first + j - position);
      for (int j = n; j < t + W; j++) s[j] = -INFINITY;
      most = vmax(most, load(s + t));
    }
    const float old = h->most[i], here = highest(most), now = here > old ? here : old;
    vf total = zero();
    for (int t = 0; t < n; t += W) {
      store(s + t, vexp(load(s + t) - set1(now)));
      for (int j = n; j < t + W; j++) s[j] = 0;
      total = total + load(s + t);
    }
    const float factor = vexp(set1(old - now))[0];
    h->total[i] = h->total[i] * factor + sum(total);
    h->most[i] = now;
    float *acc = h->acc + i * h->wide;
    int c = 0;
    for (; c + 4 * W <= h->wide; c += 4 * W) add_values<4>(acc + c, s, factor, values + c, n, h->wide);
    for (; c < h->wide; c += W) add_values<1>(acc + c, s, factor, values + c, n, h->wide);
  }
}

// Rows of the cache as fp32 rows of `wide` floats; the rows behind, up to a multiple of four, and the columns behind stay as they are.
template <class T>
void gather(const T *from, int64_t step, int n, int c, int wide, float *to) {
  for (int t = 0; t < n; t++, from += step, to += wide) {
    int i = 0;
    for (; i + W <= c; i += W) store(to + i, load(from + i));
    if (i < c) store(to + i, load_n(from + i, c - i));
  }
}

template <class T>
void attend_as(const QnLayer *l, const QnSpec *spec, const float *q, const float *k, const float *v, int position, const int32_t *table,
               int head, int h0, int h1, int write, float *out, float *scratch) {
  const int c = l->head_dim, wide = (c + 15) / 16 * 16, block = spec->block, room = (block + 15) / 16 * 16, n = h1 - h0;
  float *keys = scratch, *values = keys + (int64_t)room * wide, *key = values + (int64_t)room * wide, *value = key + 4 * wide, *rest = value + wide;
  Heads h = {n, c, wide, room, rest, rest + (int64_t)n * wide, rest + (int64_t)n * 2 * wide, nullptr, nullptr};
  h.most = h.score + (int64_t)n * room;
  h.total = h.most + n;
  memset(key, 0, 5 * wide * sizeof(float));
  ready(l, &l->norm_k, k, l->kv_heads, head, position, key);
  memcpy(value, v + head * c, c * sizeof(float));
  const QnPool *kp = &l->keys, *vp = &l->values;
  const int64_t own = table[position / block], place = position % block;
  keep((T *)kp->data + own * kp->block + head * kp->head + place * kp->slot, key, c, write);
  keep((T *)vp->data + own * vp->block + head * vp->head + place * vp->slot, value, c, write);
  if (!n) return;  // nothing but writing
  for (int i = 0; i < n; i++) {
    float *row = h.q + (int64_t)i * wide;
    memset(row, 0, wide * sizeof(float));
    memset(h.acc + (int64_t)i * wide, 0, wide * sizeof(float));
    ready(l, &l->norm_q, q, l->heads, h0 + i, position, row);
    for (int j = 0; j < c; j++) row[j] *= l->scale;
    h.most[i] = -INFINITY;
    h.total[i] = 0;
  }
  int t = l->window > 0 && position + 1 > l->window ? position + 1 - l->window : 0;
  while (t < position) {
    const int64_t b = table[t / block], slot = t % block;
    const int here = position - t < block - slot ? position - t : (int)(block - slot);
    gather((const T *)kp->data + b * kp->block + head * kp->head + slot * kp->slot, kp->slot, here, c, wide, keys);
    gather((const T *)vp->data + b * vp->block + head * vp->head + slot * vp->slot, vp->slot, here, c, wide, values);
    page(l, &h, h0, keys, values, t, here, position);
    t += here;
  }
  page(l, &h, h0, key, value, position, 1, position);  // itself
  for (int i = 0; i < n; i++)
    for (int j = 0; j < c; j++) out[(h0 + i) * c + j] = h.acc[(int64_t)i * wide + j] / h.total[i];
}

void attend(const QnLayer *l, const QnSpec *spec, const float *q, const float *k, const float *v, int position, const int32_t *table,
            int head, int h0, int h1, int write, float *out, float *scratch) {
  (spec->cache_bf16 ? attend_as<uint16_t> : attend_as<float>)(l, spec, q, k, v, position, table, head, h0, h1, write, out, scratch);
}

double read(const uint8_t *p, int64_t bytes) {  // touches every number and does next to nothing else: what the memory gives
  vu a = vu{}, b = vu{}, c = vu{}, d = vu{};
  for (; bytes >= 16 * W; bytes -= 16 * W, p += 16 * W) {
    a += get<vu>(p);
    b += get<vu>(p + 4 * W);
    c += get<vu>(p + 8 * W);
    d += get<vu>(p + 12 * W);
    __builtin_prefetch(p + 4096);
  }
  a += b + c + d;
  double total = 0;
  for (int i = 0; i < W; i++) total += a[i];
  return total;
}

#if defined(QN_BF16DP)
constexpr int BF16_FORM = FORM_H;
#else
constexpr int BF16_FORM = 0;
#endif
const Isa table = {QN_NAME, BF16_FORM, chunk, widen, prepare, norm, attend, read};

}  // namespace

const Isa *QN_TABLE() { return &table; }
