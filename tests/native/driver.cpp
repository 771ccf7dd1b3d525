// Runs every instruction set of a library against its portable one, without Python: for processors that only an emulator stands in for.
// Usage: driver. Prints what differs and returns 1, or prints the sets it ran.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "../../quire/native/abi.h"

extern "C" {
const char *qn_supported();
int qn_select(const char *);
int qn_product(const QnWeight *, const void *, void *, int, int, int, int);
void qn_pack(const void *, int, int64_t, int64_t, int, uint8_t *, uint16_t *, int);
struct Plan *qn_plan(const QnSpec *);
void qn_plan_free(Plan *);
int qn_step(Plan *, int, float *, const int32_t *, const int32_t *, int64_t, float *, float *, int);
}

static uint32_t state = 1;
static float draw() {  // in -1 .. 1
  state = state * 1664525u + 1013904223u;
  return (float)(int32_t)state / 2147483648.0f;
}
static std::vector<float> drawn(size_t n) {
  std::vector<float> v(n);
  for (float &x : v) x = draw();
  return v;
}

struct Matrix {
  std::vector<float> f;
  std::vector<uint16_t> h, scales;
  std::vector<uint8_t> q;
  QnWeight w;
  Matrix(int format, int rows, int cols) : f(drawn((size_t)rows * cols)) {
    const int tiles = (rows + 15) / 16, blocks = cols / 32;
    w = {format, rows, cols, 0, f.data(), nullptr, nullptr};
    if (format == QN_BF16) {
      for (float x : f) {
        uint32_t u;
        memcpy(&u, &x, 4);
        h.push_back((uint16_t)(u >> 16));
      }
      w.data = h.data();
    } else if (format >= QN_INT8) {
      q.resize((size_t)tiles * blocks * (format == QN_INT8 ? 512 : 256));
      scales.resize((size_t)tiles * blocks * 16);
      qn_pack(f.data(), 0, rows, cols, format == QN_INT4, q.data(), scales.data(), 1);
      w.data = q.data(), w.scales = scales.data();
    }
  }
};

static std::vector<float> everything() {  // of the selected set, in a fixed order
  state = 1;
  std::vector<float> all;
  for (int format = 0; format < 4; format++)
    for (int rows : {3, 16, 50})
      for (int cols : {32, 96, 224})
        for (int tokens : {1, 2, 3, 5, 8, 13, 33}) {
          Matrix m(format, rows, cols);
          std::vector<float> x = drawn((size_t)tokens * cols), y((size_t)tokens * rows);
          qn_product(&m.w, x.data(), y.data(), 0, tokens, tokens % 6, 2);
          all.insert(all.end(), y.begin(), y.end());
        }
  const int width = 64, heads = 4, kv = 2, c = 20, block = 4, blocks = 12, tokens = 3;
  Matrix q(QN_INT8, heads * c, width), k(QN_FP32, kv * c, width), v(QN_BF16, kv * c, width), o(QN_FP32, width, heads * c), gate(QN_INT4, 96, width),
      up(QN_INT4, 96, width), down(QN_INT8, width, 96), head(QN_FP32, 33, width);
  std::vector<float> ones(width, 1.0f), cos = drawn(32 * 16), sin = drawn(32 * 16), keys(blocks * kv * block * c), values(keys.size());
  QnLayer l = {};
  l.q = q.w, l.k = k.w, l.v = v.w, l.o = o.w, l.gate = gate.w, l.up = up.w, l.down = down.w;
  l.norm_attn = l.norm_ffn = {QN_RMS, 1e-5f, ones.data(), nullptr};
  l.heads = heads, l.kv_heads = kv, l.head_dim = c, l.turned = 16, l.act = QN_SILU, l.scale = 0.2f, l.softcap = 5, l.window = 6;
  l.cos = cos.data(), l.sin = sin.data();
  l.keys = {keys.data(), kv * block * c, block * c, c}, l.values = {values.data(), kv * block * c, block * c, c};
  QnSpec spec = {&l, {QN_LAYER, 1e-5f, ones.data(), nullptr}, head.w, 1, width, tokens, 2, 0, block, blocks, 0, 1, 3};
  Plan *plan = qn_plan(&spec);
  const int32_t tables[] = {0, 5, 7, 2, 8, 1, 3, 4, 6};
  for (int32_t t = 0; t < 11; t++) {
    std::vector<float> x = drawn(tokens * width), logits(tokens * 33);
    const int32_t positions[] = {t, t, t};
    qn_step(plan, tokens, x.data(), positions, tables, 3, nullptr, logits.data(), 2);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  qn_plan_free(plan);
  return all;
}

int main() {
  const std::string sets = qn_supported();
  qn_select("portable");
  const std::vector<float> wanted = everything();
  int wrong = 0;
  for (size_t at = 0; at < sets.size();) {
    const size_t end = sets.find(' ', at);
    const std::string name = sets.substr(at, end - at);
    at = end == std::string::npos ? sets.size() : end + 1;
    qn_select(name.c_str());
    const std::vector<float> got = everything();
    float far = 0;
    for (size_t i = 0; i < got.size(); i++) far = fmaxf(far, isnan(got[i]) ? INFINITY : fabsf(got[i] - wanted[i]) / (1 + fabsf(wanted[i])));
    const float allowed = name == "avx512bf16" ? 0.2f : 1e-3f;  // that one rounds activations to bf16
    printf("%s %g\n", name.c_str(), far);
    wrong += !(far < allowed);
  }
  return wrong != 0;
}
