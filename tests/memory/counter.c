/*
 * Counts the memory that one library asks malloc and calloc for: what is live, and the peak.
 *
 * Preloaded into a process (LD_PRELOAD). Nothing is counted until counter_watch says where the
 * library's code lies; from then on a block counts if the call came from there. libcaffe.so calls
 * these two functions for the memory behind its blobs and for nothing else (its other objects come
 * from operator new), so this counts exactly what a model of Caffe's blobs predicts.
 *
 * Build without the C library (cc -shared -fPIC -O2 -nostdlib -fno-stack-protector): the process
 * may have an older one than the compiler. g++ makes one calloc of malloc and memset.
 */

#include <stddef.h>
#include <stdint.h>

/* The allocator of the GNU C library under its own names. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t number, size_t size);
extern void __libc_free(void *block);

#define SLOTS ((size_t)1 << 16) /* a power of two */
#define MASK (SLOTS - 1)

/* Live blocks, hashed by address: open addressing, linear probing. */
static struct {
  void *block;
  size_t size;
} table[SLOTS];

static char lock;
static size_t used, live, peak;
static uintptr_t code_start, code_end;

static void acquire(void) {
  while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE)) {
  }
}

static void release(void) { __atomic_clear(&lock, __ATOMIC_RELEASE); }

static size_t home_of(const void *block) {
  return (size_t)((((uint64_t)(uintptr_t)block >> 4) * 0x9E3779B97F4A7C15u) >> 40) & MASK;
}

/* The slot that holds the block, or else the empty one where it would be put. */
static size_t slot_of(const void *block) {
  size_t slot = home_of(block);
  while (table[slot].block && table[slot].block != block) slot = (slot + 1) & MASK;
  return slot;
}

/* Empties a slot and moves up what was pushed behind it. */
static void empty(size_t hole) {
  for (size_t i = (hole + 1) & MASK; table[i].block; i = (i + 1) & MASK) {
    size_t home = home_of(table[i].block);
    if (((i - home) & MASK) >= ((i - hole) & MASK)) {
      table[hole] = table[i];
      hole = i;
    }
  }
  table[hole].block = NULL;
}

static void *counted(void *block, size_t size, const void *caller) {
  uintptr_t code = (uintptr_t)caller;
  if (!block || code < code_start || code >= code_end) return block;
  acquire();
  if (++used >= SLOTS) __builtin_trap(); /* no room: better no figure than a wrong one */
  size_t slot = slot_of(block);
  table[slot].block = block;
  table[slot].size = size;
  live += size;
  if (live > peak) peak = live;
  release();
  return block;
}

void *malloc(size_t size) {
  return counted(__libc_malloc(size), size, __builtin_return_address(0));
}

void *calloc(size_t number, size_t size) {
  return counted(__libc_calloc(number, size), number * size, __builtin_return_address(0));
}

void free(void *block) {
  if (block && code_end) {
    acquire();
    size_t slot = slot_of(block);
    if (table[slot].block) {
      live -= table[slot].size;
      used--;
      empty(slot);
    }
    release();
  }
  __libc_free(block);
}

/* Counts what the code between two addresses asks for from now on. */
void counter_watch(uintptr_t start, uintptr_t end) {
  code_start = start;
  code_end = end;
}

size_t counter_live(void) { return live; }

size_t counter_peak(void) { return peak; }

/* The sizes of the live blocks, at most so many of them; returns how many there are. */
size_t counter_sizes(size_t *sizes, size_t most) {
  size_t number = 0;
  acquire();
  for (size_t slot = 0; slot < SLOTS; slot++) {
    if (table[slot].block && number < most) sizes[number++] = table[slot].size;
  }
  release();
  return number;
}
