// The part of the CUDA runtime that nvcc's host stubs call, over kernels translated by
// ptx_to_cpp.py: launches are checked against a Hopper's limits and run at once, one thread after
// another in a shuffled order. "Device memory" is the process's own. A launch in which something
// was wrong fails, and the process ends with a line that says how much was run.
//
// ZF_EMU_RACES=1     every access is noted: two threads of a launch that touch a byte which one of
//                    them writes are a race.
// ZF_EMU_KERNELS=F   how often each kernel was launched is written to the file F.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator.h"

namespace {

struct Dim3 {
  unsigned x, y, z;
};
struct Configuration {
  Dim3 grid, block;
  size_t shared;
  void* stream;
};

// Never destroyed: the report at the end of the process reads them.
std::unordered_map<std::string, const Kernel*>& kernels() {
  static auto& all = *new std::unordered_map<std::string, const Kernel*>;
  return all;
}
std::unordered_map<const void*, std::string>& names() {
  static auto& all = *new std::unordered_map<const void*, std::string>;
  return all;
}
std::vector<Configuration>& pushed() {
  static thread_local std::vector<Configuration> all;
  return all;
}
std::mutex lock;
uint64_t launches = 0, faults = 0, threads_run = 0;
int lines = 0;  // about this launch's faults
std::unordered_map<std::string, uint64_t>& launched() {
  static auto& all = *new std::unordered_map<std::string, uint64_t>;
  return all;
}
int last_error = 0;

// Who has touched a byte in this launch: an open table, emptied by a new epoch.
struct Touched {
  struct Entry {
    uint64_t at = 0, epoch = 0, writer = none, reader = none;
    bool many_readers = false;
  };
  static constexpr uint64_t none = ~uint64_t{0};
  std::vector<Entry> entries = std::vector<Entry>(1 << 16);
  uint64_t epoch = 1, used = 0;

  void next() {
    ++epoch;
    used = 0;
  }
  Entry& find(uint64_t at) {
    if (used * 2 > entries.size()) grow();
    uint64_t i = (at * 0x9e3779b97f4a7c15ull) >> 20 & (entries.size() - 1);
    while (entries[i].epoch == epoch && entries[i].at != at) i = (i + 1) & (entries.size() - 1);
    if (entries[i].epoch != epoch) {
      entries[i] = {at, epoch, none, none, false};
      ++used;
    }
    return entries[i];
  }
  void grow() {
    std::vector<Entry> old(entries.size() * 2);
    old.swap(entries);
    used = 0;
    for (const Entry& e : old)
      if (e.epoch == epoch) find(e.at) = e;
  }
};
Touched& touched() {
  static Touched all;
  return all;
}

}  // namespace

extern "C" {

bool zf_emu_races = std::getenv("ZF_EMU_RACES") != nullptr;

// Blocks that a launch has at most; with few a thread strides over what the others would do.
[[gnu::visibility("default")]] uint32_t zf_emu_most_blocks = 0x7fffffff;

void zf_emu_register(const Kernel* all, int count) {
  for (int i = 0; i < count; ++i) kernels()[all[i].name] = &all[i];
}

void zf_emu_fault(const char* what, uint64_t at, const char* kernel, uint64_t thread) {
  constexpr int illegal_address = 700, most_lines = 10;
  last_error = illegal_address;
  ++faults;
  if (++lines > most_lines) return;
  std::fprintf(stderr, "FAULT %s at 0x%llx in thread %llu of %s\n", what,
               static_cast<unsigned long long>(at), static_cast<unsigned long long>(thread),
               kernel);
}

void zf_emu_touch(uint64_t at, uint32_t bytes, bool writes, const Thread* t) {
  for (uint32_t i = 0; i < bytes; ++i) {
    auto& e = touched().find(at + i);
    if (e.writer != Touched::none && e.writer != t->linear)
      zf_emu_fault(writes ? "race: written by two threads" : "race: read what another writes",
                   at + i, t->kernel, t->linear);
    if (writes) {
      if (e.many_readers || (e.reader != Touched::none && e.reader != t->linear))
        zf_emu_fault("race: written after another read it", at + i, t->kernel, t->linear);
      e.writer = t->linear;
    } else if (e.reader == Touched::none) {
      e.reader = t->linear;
    } else if (e.reader != t->linear) {
      e.many_readers = true;
    }
  }
}

[[gnu::destructor]] void zf_emu_report() {
  const auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
  std::fprintf(stderr, "emulated: %llu launches, %llu threads, %zu of %zu kernels, %llu faults\n",
               number(launches), number(threads_run), launched().size(), kernels().size(),
               number(faults));
  const char* path = std::getenv("ZF_EMU_KERNELS");
  FILE* file = path ? std::fopen(path, "w") : nullptr;
  if (!file) return;
  for (const auto& [name, kernel] : kernels()) {
    const auto found = launched().find(name);
    const uint64_t times = found == launched().end() ? 0 : found->second;
    std::fprintf(file, "%llu %s\n", number(times), name.c_str());
  }
  std::fclose(file);
}

// --- what nvcc's stubs call ----------------------------------------------------------------------

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*,
                            void*, void*, int*) {
  names()[host] = name;
}
unsigned __cudaPushCallConfiguration(Dim3 grid, Dim3 block, size_t shared, void* stream) {
  pushed().push_back({grid, block, shared, stream});
  return 0;
}
int __cudaPopCallConfiguration(Dim3* grid, Dim3* block, size_t* shared, void** stream) {
  const Configuration c = pushed().back();
  pushed().pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *stream = c.stream;
  return 0;
}
int __cudaGetKernel(void** kernel, const void* host) {
  *kernel = const_cast<void*>(host);
  return 0;
}
int cudaGetLastError() {
  const int error = last_error;
  last_error = 0;
  return error;
}

int __cudaLaunchKernel(void* host, Dim3 grid, Dim3 block, void** arguments, size_t shared, void*) {
  const std::lock_guard guard(lock);
  lines = 0;
  const auto named = names().find(host);
  if (named == names().end()) return last_error = 98;  // cudaErrorInvalidDeviceFunction
  const auto known = kernels().find(named->second);
  if (known == kernels().end()) {
    zf_emu_fault("no translated kernel", 0, named->second.c_str(), 0);
    return last_error = 209;  // cudaErrorNoKernelImageForDevice
  }
  const Kernel& kernel = *known->second;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      !threads || threads > 1024 || threads > kernel.max_threads || block.z > 64 || shared > 232448)
    return last_error = 9;  // cudaErrorInvalidConfiguration
  if (grid.y != 1 || grid.z != 1 || block.y != 1 || block.z != 1) {
    zf_emu_fault("more than one dimension", 0, kernel.name, 0);
    return last_error = 9;
  }
  // By value, each parameter at its own alignment, as the driver copies them.
  static std::vector<unsigned char> space(1 << 16);
  std::vector<unsigned char*> parameters;
  uint64_t offset = 0;
  for (uint32_t i = 0; i < kernel.param_count; ++i) {
    const auto [bytes, alignment] = kernel.params[i];
    offset = (offset + alignment - 1) / alignment * alignment;
    unsigned char* base = space.data();
    base += (256 - reinterpret_cast<uintptr_t>(base) % 256) % 256;
    std::memcpy(base + offset, arguments[i], bytes);
    parameters.push_back(base + offset);
    offset += bytes;
  }
  grid.x = std::min(grid.x, zf_emu_most_blocks);
  if (offset > 4096) zf_emu_fault("more than 4096 bytes of parameters", offset, kernel.name, 0);
  ++launches;
  ++launched()[kernel.name];
  touched().next();
  static std::mt19937_64 random(1);
  const uint64_t total = uint64_t{grid.x} * threads;
  // A shuffled order: start + i * step for a step without a common divisor.
  uint64_t step = total > 2 ? random() % (total - 1) + 1 : 1;
  while (std::gcd(step, total) != 1) ++step;
  uint64_t at = random() % total;
  for (uint64_t i = 0; i < total; ++i, at = (at + step) % total) {
    const Thread t{static_cast<uint32_t>(at % threads),
                   static_cast<uint32_t>(at / threads),
                   block.x,
                   grid.x,
                   at,
                   kernel.name};
    kernel.run(t, parameters.data());
  }
  threads_run += total;
  return 0;
}

}  // extern "C"
