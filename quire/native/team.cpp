// Starting the threads of a run: through torch's OpenMP runtime, or through a pool that lives as long as the process.
#include "team.h"

OpenMP openmp = {nullptr, nullptr, nullptr};

namespace {

struct Call {
  Team *team;
  void (*work)(void *, int);
  void *context;
  std::atomic<int> entered{0};
};

void in_openmp(void *data) {
  Call *call = (Call *)data;
  if (openmp.index() == 0) call->team->size = openmp.count();  // it may give fewer threads than were asked for
  const int index = openmp.index(), count = openmp.count();
  call->entered.fetch_add(1);
  for (int spins = 0; call->entered.load() < count; spins++) spins < SPINS ? relax() : (void)sched_yield();  // nobody starts before the size is known
  call->work(call->context, index);
}

class Pool {
 public:
  void run(int threads, Call *call) {
    std::lock_guard<std::mutex> one(running);  // two steps take turns
    {
      std::lock_guard<std::mutex> lock(mutex);
      while ((int)workers.size() + 1 < threads) {
        const int index = (int)workers.size() + 1;
        workers.emplace_back([this, index, seen = round] { serve(index, seen); });
        workers.back().detach();  // they sleep until the process ends
      }
      current = call;
      wanted = threads;
      left = threads - 1;
      round++;
    }
    start.notify_all();
    call->work(call->context, 0);
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return left == 0; });
  }

 private:
  void serve(int index, uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      start.wait(lock, [&] { return round != seen; });
      seen = round;
      if (index >= wanted) continue;
      Call *call = current;
      lock.unlock();
      call->work(call->context, index);
      lock.lock();
      if (--left == 0) finished.notify_one();
    }
  }

  std::mutex running, mutex;
  std::condition_variable start, finished;
  std::vector<std::thread> workers;
  Call *current = nullptr;
  int wanted = 0, left = 0;
  uint64_t round = 0;
};

}  // namespace

void Team::run(int threads, void (*work)(void *, int), void *context) {
  Call call{this, work, context};
  size = threads;
  if (threads == 1) return work(context, 0);
  if (openmp.parallel) return openmp.parallel(in_openmp, &call, threads, 0);
  static Pool *pool = new Pool;  // never destroyed: its threads outlive every static
  pool->run(threads, &call);
}
