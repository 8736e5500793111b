// out[p] = added[p] + scale a[p] b[p] for many small matrices: rows of b in vector registers, numbers of a broadcast, a block of out in
// registers over all of the inner axis. No blocks for caches: an `a` and a panel of `b` have to fit them.
#include <torch/csrc/inductor/cpp_prefix.h>

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

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

  struct Left {  // `rows` rows of a, its numbers at `row` and `column` from each other
    const T* at;
    int64_t rows, row, column;
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
  };

  // R rows of a on C vectors of b. Invariant: all sums stay in registers, R * C + C + 1 of them.
  template <int R, int C, bool WHOLE>
  __attribute__((noinline)) static void block(const Left& a, const Right& b, const Out& out, int64_t inner) {
    const T *left = a.at, *right = b.at;
    const int64_t row = a.row, column = a.column, b_row = b.row, last = b.last;
    V sums[R][C];
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) sums[i][j] = V(T(0));
    for (int64_t k = 0; k < inner; k++, left += column, right += b_row) {
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
    const int64_t rest = WHOLE ? WIDTH : last;
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
    if (b.last == WIDTH) return block<R, C, true>(a, b, out, inner);
    block<R, C, false>(a, b, out, inner);
  }

  // All rows of a in blocks of nearly the same size.
  template <int C>
  static void panel(const Left& a, const Right& b, const Out& out, int64_t inner) {
    constexpr int MOST = std::min(10, (REGISTERS - C - 1) / C);
    int64_t blocks = (a.rows + MOST - 1) / MOST;
    for (int64_t i = 0; blocks > 0; blocks--) {
      const int64_t here = (a.rows - i + blocks - 1) / blocks;
      rows<MOST, C>({a.at + i * a.row, here, a.row, a.column}, b, out.from(i * out.row), inner);
      i += here;
    }
  }

  // `columns` rows of a transposed b, turned into columns of a panel.
  static void turn(const T* b, int64_t columns, int64_t inner, T* turned) {
    constexpr int64_t SIDE = 32 / sizeof(T);
    const int64_t whole = columns / SIDE * SIDE, whole_inner = inner / SIDE * SIDE;
    for (int64_t j = 0; j < whole; j += SIDE)
      for (int64_t k = 0; k < whole_inner; k += SIDE) square(b + j * inner + k, inner, turned + k * PANEL + j);
    for (int64_t j = 0; j < columns; j++)
      for (int64_t k = j < whole ? whole_inner : 0; k < inner; k++) turned[k * PANEL + j] = b[j * inner + k];
  }

  // 8 x 8 numbers of four bytes or 4 x 4 of eight, turned in registers of 32 bytes.
  static void square(const T* from, int64_t row, T* to) {
    typedef T X __attribute__((vector_size(32), aligned(sizeof(T))));
    constexpr int SIDE = 32 / sizeof(T);
    X r[SIDE], t[SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < SIDE; i++) r[i] = *(const X*)(from + i * row);
    if constexpr (SIDE == 8) {
#pragma GCC unroll 4
      for (int i = 0; i < 8; i += 2) {
        t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
      }
#pragma GCC unroll 4
      for (int n = 0; n < 4; n++) {
        const int i = n / 2 * 4, h = n % 2;
        r[i + 2 * h] = __builtin_shufflevector(t[i + h], t[i + 2 + h], 0, 1, 8, 9, 4, 5, 12, 13);
        r[i + 2 * h + 1] = __builtin_shufflevector(t[i + h], t[i + 2 + h], 2, 3, 10, 11, 6, 7, 14, 15);
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        *(X*)(to + i * PANEL) = __builtin_shufflevector(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(X*)(to + (i + 4) * PANEL) = __builtin_shufflevector(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
      }
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < 4; i += 2) {
        t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 4, 2, 6);
        t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 5, 3, 7);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; i++) {
        *(X*)(to + i * PANEL) = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 4, 5);
        *(X*)(to + (i + 2) * PANEL) = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 6, 7);
      }
    }
  }

  // One product, panel by panel; `turned` has room for a panel.
  static void one(const Left& a, const T* b, const Out& out, int64_t inner, bool turn_b, T* turned) {
    const int64_t columns = out.row;
    for (int64_t j = 0; j < columns; j += PANEL) {
      const int64_t here = std::min(PANEL, columns - j), last = (here - 1) % WIDTH + 1;
      if (turn_b) turn(b + j * inner, here, inner, turned);
      const Right right = turn_b ? Right{turned, PANEL, last} : Right{b + j, columns, last};
      if (here > 2 * WIDTH) panel<3>(a, right, out.from(j), inner);
      else if (here > WIDTH) panel<2>(a, right, out.from(j), inner);
      else panel<1>(a, right, out.from(j), inner);
    }
  }
};

extern "C" void kernel(const NUMBER* a, const NUMBER* b, const NUMBER* added, NUMBER* out, int64_t scale_bits, int64_t count,
                       int64_t rows, int64_t inner, int64_t columns, int64_t is_added, int64_t turn_a, int64_t turn_b,
                       int64_t threads) {
  using Product = Small<NUMBER>;
  double given;  // a call has arrays and whole numbers only; C++17, which Inductor of torch 2.11 asks for, has no bit_cast
  std::memcpy(&given, &scale_bits, sizeof given);
  const auto scale = NUMBER(given);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<NUMBER> turned(turn_b ? inner * Product::PANEL : 0);
#pragma omp for
    for (int64_t p = 0; p < count; p++) {
      const Product::Out all{out, is_added ? added : nullptr, columns, scale};
      Product::one({a + p * rows * inner, rows, turn_a ? 1 : inner, turn_a ? rows : 1}, b + p * inner * columns,
                   all.from(p * rows * columns), inner, turn_b, turned.data());
    }
  }
}
