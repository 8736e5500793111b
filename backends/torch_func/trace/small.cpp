// out[p] = added[p] + scale a[p] b[p] for many small matrices, or for one where rows or columns are few: rows of b in vector registers,
// numbers of a broadcast, a block of out in registers over a stretch of the inner axis. Every number of out is the sum of such stretches,
// one after the other, whatever the blocks and the threads.
#include <torch/csrc/inductor/cpp_prefix.h>

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

// Numbers of two vectors, by their places in both, as a vector: g++ has __builtin_shufflevector from 12 on, clang never had the other.
#ifdef __clang__
#define TAKEN(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define TAKEN(a, b, ...) __builtin_shuffle(a, b, Places{__VA_ARGS__})
#endif

template <typename T>
struct Small {
  using V = at::vec::Vectorized<T>;
  static constexpr int64_t WIDTH = V::size();
#if defined(CPU_CAPABILITY_AVX2)
  static constexpr int REGISTERS = 16;
#else
  static constexpr int REGISTERS = 32;
#endif
  static constexpr int64_t PANEL = 3 * WIDTH;  // columns of b at a time
  static constexpr int64_t DEPTH = 4096 / sizeof(T);  // of the inner axis at a time: a panel of b stays in a cache
  static constexpr int64_t NEAR = 32768 / sizeof(T);  // numbers of a factor that the nearest cache holds

  enum class Next { NEAR, DOWN, BESIDE };  // what is read after a block: what is in a cache, more rows of a, the next panel of b
  struct Left {  // `rows` rows of a, its numbers at `row` and `column` from each other
    const T* at;
    int64_t rows, row, column;
    const T* ahead;  // what is read after this: a line of memory for each row of b, `step` from one to the next
    int64_t step;
  };
  struct Right {  // a panel of b: `row` from one row to the next, `last` columns in its last vector
    const T* at;
    int64_t row, last;
  };
  struct Out {  // where the result goes, and what is added to it, in the same place of another array, or none
    T* at;
    const T* added;
    int64_t row;
    T scale;
    Out from(int64_t i) const { return {at + i, added ? added + i : added, row, scale}; }
    Out again() const { return {at, at, row, scale}; }  // to what is there
  };

  // R rows of a on C vectors of b. Invariant: all sums stay in registers, R * C + C + 1 of them.
  template <int R, int C, bool WHOLE>
  __attribute__((noinline)) static void block(const Left& a, const Right& b, const Out& out, int64_t inner) {
    const T *left = a.at, *right = b.at, *ahead = a.ahead;
    const int64_t row = a.row, column = a.column, b_row = b.row, last = b.last, step = a.step;
    V sums[R][C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) sums[i][j] = V(T(0));
    for (int64_t k = 0; k < inner; k++, left += column, right += b_row, ahead += step) {
      __builtin_prefetch(ahead);
      V across[C];
#pragma GCC unroll 4
      for (int j = 0; j < C - 1; j++) across[j] = V::loadu(right + j * WIDTH);
      across[C - 1] = WHOLE ? V::loadu(right + (C - 1) * WIDTH) : V::loadu(right + (C - 1) * WIDTH, last);
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) {
        const V down(left[i * row]);
#pragma GCC unroll 4
        for (int j = 0; j < C; j++) sums[i][j] = at::vec::fmadd(down, across[j], sums[i][j]);
      }
    }
    const int64_t rest = C > 1 && WHOLE ? WIDTH : last;
    if (out.added) {
      const V scale(out.scale);
#pragma GCC unroll 16
      for (int i = 0; i < R; i++)
#pragma GCC unroll 4
        for (int j = 0; j < C; j++) {
          const T* added = out.added + i * out.row + j * WIDTH;
          sums[i][j] = at::vec::fmadd(sums[i][j], scale, j < C - 1 ? V::loadu(added) : V::loadu(added, rest));
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < C - 1; j++) sums[i][j].store(out.at + i * out.row + j * WIDTH);
      sums[i][C - 1].store(out.at + i * out.row + (C - 1) * WIDTH, rest);
    }
  }

  // The block for a.rows rows, at most R.
  template <int R, int C>
  static void rows(const Left& a, const Right& b, const Out& out, int64_t inner) {
    if constexpr (R > 1) {
      if (a.rows < R) return rows<R - 1, C>(a, b, out, inner);
    }
    if constexpr (C > 1) {
      if (b.last < WIDTH) return block<R, C, false>(a, b, out, inner);
    }
    block<R, C, true>(a, b, out, inner);
  }

  // All rows of a in blocks of nearly the same size.
  template <int C>
  static void panel(const Left& a, const Right& b, const Out& out, int64_t inner, Next next) {
    constexpr int MOST = std::min(10, (REGISTERS - C - 1) / C);
    int64_t blocks = (a.rows + MOST - 1) / MOST;
    for (int64_t i = 0; blocks > 0; blocks--) {
      const int64_t here = (a.rows - i + blocks - 1) / blocks;
      Left left{a.at + i * a.row, here, a.row, a.column, a.at, 0};
      if (next == Next::DOWN) left.ahead = left.at + here * a.row, left.step = a.column > 1 ? a.column : a.row == inner ? here : 0;
      else if (next == Next::BESIDE) left.ahead = b.at + (C + blocks % C) * WIDTH, left.step = b.row;  // a vector of it in every block
      rows<MOST, C>(left, b, out.from(i * out.row), inner);
      i += here;
    }
  }

  // `columns` rows of a transposed b, `row` from one to the next, turned into columns of a panel.
  static Right turned(const T* b, int64_t row, int64_t columns, int64_t inner, T* panel) {
    constexpr int64_t SIDE = 32 / sizeof(T);
    const int64_t whole = columns / SIDE * SIDE, whole_inner = inner / SIDE * SIDE;
    for (int64_t j = 0; j < whole; j += SIDE)
      for (int64_t k = 0; k < whole_inner; k += SIDE) square(b + j * row + k, row, panel + k * PANEL + j);
    for (int64_t j = 0; j < columns; j++)
      for (int64_t k = j < whole ? whole_inner : 0; k < inner; k++) panel[k * PANEL + j] = b[j * row + k];
    return {panel, PANEL, (columns - 1) % WIDTH + 1};
  }

  // `columns` columns of b where they are; less than a vector of the last panel in whole ones, since to load a part of one takes as long
  // as to multiply with it.
  static Right straight(const T* b, int64_t row, int64_t columns, int64_t inner, T* panel) {
    if (columns >= WIDTH) return {b, row, (columns - 1) % WIDTH + 1};
    for (int64_t k = 0; k < inner; k++) V::loadu(b + k * row, columns).store(panel + k * WIDTH);
    return {panel, WIDTH, columns};
  }

  // 8 x 8 numbers of four bytes or 4 x 4 of eight, turned in registers of 32 bytes.
  static void square(const T* from, int64_t row, T* to) {
    typedef T X __attribute__((vector_size(32), aligned(sizeof(T))));
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Place;
    typedef Place Places __attribute__((vector_size(32)));
    constexpr int SIDE = 32 / sizeof(T);
    X r[SIDE], t[SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < SIDE; i++) r[i] = *(const X*)(from + i * row);
    if constexpr (SIDE == 8) {
#pragma GCC unroll 4
      for (int i = 0; i < 8; i += 2) {
        t[i] = TAKEN(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = TAKEN(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
      }
#pragma GCC unroll 4
      for (int n = 0; n < 4; n++) {
        const int i = n / 2 * 4, h = n % 2;
        r[i + 2 * h] = TAKEN(t[i + h], t[i + 2 + h], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 2 * h + 1] = TAKEN(t[i + h], t[i + 2 + h], 2, 3, 10, 11, 6, 7, 14, 15);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        *(X*)(to + i * PANEL) = TAKEN(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(X*)(to + (i + 4) * PANEL) = TAKEN(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
      }
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < 4; i += 2) {
        t[i] = TAKEN(r[i], r[i + 1], 0, 4, 2, 6);
        t[i + 1] = TAKEN(r[i], r[i + 1], 1, 5, 3, 7);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; i++) {
        *(X*)(to + i * PANEL) = TAKEN(t[i], t[i + 2], 0, 1, 4, 5);
        *(X*)(to + (i + 2) * PANEL) = TAKEN(t[i], t[i + 2], 2, 3, 6, 7);
      }
    }
  }

  struct Sizes {
    int64_t rows, inner, columns;
    bool turn_a, turn_b;
  };

  // Rows and columns from `row` and `column` on, as many as `size` has, of a product of sizes `all`; `room` has room for a panel.
  static void part(const T* a, const T* b, const Out& out, const Sizes& all, const Sizes& size, int64_t row, int64_t column, T* room) {
    const bool is_near = all.inner * std::max(all.rows, all.columns) <= NEAR;
    const Next next = is_near ? Next::NEAR : all.rows >= all.columns ? Next::DOWN : Next::BESIDE;
    const int64_t across = all.turn_a ? 1 : all.inner, down = all.turn_a ? all.rows : 1;
    for (int64_t k = 0; k < all.inner; k += DEPTH) {
      const int64_t depth = std::min(DEPTH, all.inner - k);
      const Left left{a + row * across + k * down, size.rows, across, down, a, 0};
      for (int64_t j = column; j < column + size.columns; j += PANEL) {
        const int64_t here = std::min(PANEL, column + size.columns - j);
        const Right right = all.turn_b ? turned(b + j * all.inner + k, all.inner, here, depth, room)
                                       : straight(b + k * all.columns + j, all.columns, here, depth, room);
        const Out to = k > 0 ? out.from(row * all.columns + j).again() : out.from(row * all.columns + j);
        if (here > 2 * WIDTH) panel<3>(left, right, to, depth, next);
        else if (here > WIDTH) panel<2>(left, right, to, depth, next);
        else panel<1>(left, right, to, depth, next);
      }
    }
  }
};

extern "C" void kernel(const NUMBER* a, const NUMBER* b, const NUMBER* added, NUMBER* out, int64_t scale_bits, int64_t count,
                       int64_t rows, int64_t inner, int64_t columns, int64_t is_added, int64_t turn_a, int64_t turn_b,
                       int64_t threads) {
  using Product = Small<NUMBER>;
  double given;  // a call has arrays and whole numbers only; C++17, which Inductor of torch 2.11 asks for, has no bit_cast
  std::memcpy(&given, &scale_bits, sizeof given);
  const auto scale = NUMBER(is_added ? given : 1.0);
  const Product::Sizes all{rows, inner, columns, turn_a != 0, turn_b != 0};
  // Fewer products than threads: each in parts, of rows or of whole panels.
  const int64_t parts = count < threads ? (threads + count - 1) / count : 1;
  const bool by_rows = rows >= columns || columns < threads * Product::PANEL;
  const int64_t least = by_rows ? 1 : Product::PANEL, units = by_rows ? rows : (columns + least - 1) / least;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const bool has_room = turn_b || columns % Product::PANEL;
    std::vector<NUMBER> room(has_room ? std::min(inner, Product::DEPTH) * Product::PANEL : 0);
#pragma omp for
    for (int64_t t = 0; t < count * parts; t++) {
      const int64_t p = t / parts, q = t % parts, first = units * q / parts * least, end = units * (q + 1) / parts * least;
      const Product::Out whole{out, is_added ? added : nullptr, columns, scale};
      const Product::Out to = whole.from(p * rows * columns);
      const NUMBER *left = a + p * rows * inner, *right = b + p * inner * columns;
      if (by_rows) Product::part(left, right, to, all, {end - first, inner, columns}, first, 0, room.data());
      else Product::part(left, right, to, all, {rows, inner, std::min(end, columns) - first}, 0, first, room.data());
    }
  }
}
