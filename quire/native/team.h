// The threads of one run: one parallel region for a whole step, with barriers inside it and work handed out in small pieces.
//
// Torch already keeps a pool of OpenMP threads that spin for work, and a second pool beside it would fight it for the processors; so
// Python passes the addresses of that very runtime (`qn_openmp`). Without one (another compiler's OpenMP, none at all) a small pool of our
// own stands in, and Python keeps torch at one thread. Work is claimed piece by piece, not dealt out beforehand: a thread that another
// program pushes aside then delays its piece only. Waiting spins for a few microseconds, then lets others run.
#pragma once
#include <sched.h>
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

struct OpenMP {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
  int (*count)();
  int (*index)();
};

constexpr int SPINS = 1000;
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct alignas(64) Counter {
  std::atomic<int32_t> next{0};
};

class Team {
 public:
  // One barrier: everything written before it is seen after it.
  void wait() {
    if (size == 1) return;
    const int32_t round = done.next.load(std::memory_order_relaxed);
    if (arrived.next.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.next.store(0, std::memory_order_relaxed);
      done.next.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; done.next.load(std::memory_order_acquire) == round; spins++) spins < SPINS ? relax() : (void)sched_yield();
  }

  // Runs work(context, index) on `threads` threads at once; `size` is how many there really are.
  void run(int threads, void (*work)(void *, int), void *context);

  int size = 1;

 private:
  Counter arrived, done;
};

extern OpenMP openmp;
