// The kernels of `scan_cpp` (selective_scan.py); selective_scan_cpp.py compiles and calls them.
//
// Neighbouring features go through time together, as the lanes of a vector; so many are a tile. A block of STEPS steps
// stays in the first cache while the states pass over it one after the other, however many there are. Forward can keep
// the states before each block; backward goes through the blocks from the last to the first and computes the states
// inside again. A call works on some items of a batch and some tiles; calls may run at the same time if they differ in
// one of them (backward: and add up dB and dC in places of their own). Nothing here knows of torch or Python.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int64_t STEPS = 16;  // as in selective_scan_cpp.py

// Vectors of 64 bytes; where the machine's are shorter the compiler takes several. LN2_HIGH has so few digits that
// products with whole numbers are exact; HIGH + LOW is ln 2.
template <typename T>
struct Kind;

template <>
struct Kind<float> {
  typedef float Vector __attribute__((vector_size(64)));
  typedef int32_t Bits __attribute__((vector_size(64)));
  static constexpr int MANTISSA = 23, BIAS = 127, DEGREE = 7;
  static constexpr float SMALLEST = -87.3f, LARGEST = 88.3f;  // exp is a normal number in between
  static constexpr float LN2_HIGH = 0x1.62ep-1f, LN2_LOW = 0x1.0bfbe8e7bcd5ep-15f;
};

template <>
struct Kind<double> {
  typedef double Vector __attribute__((vector_size(64)));
  typedef int64_t Bits __attribute__((vector_size(64)));
  static constexpr int MANTISSA = 52, BIAS = 1023, DEGREE = 13;
  static constexpr double SMALLEST = -708.3, LARGEST = 709.4;
  static constexpr double LN2_HIGH = 0x1.62e42fefa2p-1, LN2_LOW = 0x1.9ef35793c7673p-41;
};

template <typename T>
using Vector = typename Kind<T>::Vector;

template <typename T>
constexpr int64_t LANES = 64 / sizeof(T);

template <typename T>
constexpr T inverse_factorial(int n) {
  return n < 2 ? T(1) : inverse_factorial<T>(n - 1) / T(n);
}

// 1 + r (1 + r/2 (1 + ...)), the Taylor polynomial of exp from its term `n` on
template <typename T, int n = 0>
inline Vector<T> taylor(Vector<T> r) {
  constexpr T term = inverse_factorial<T>(n);
  if constexpr (n == Kind<T>::DEGREE)
    return term - Vector<T>{};
  else
    return taylor<T, n + 1>(r) * r + term;
}

// exp(x) = 2^k exp(r), |r| <= ln 2 / 2, to a rounding or two; below what has a normal result 0, above infinity.
template <typename T>
inline Vector<T> exp(Vector<T> x) {
  using Bits = typename Kind<T>::Bits;
  constexpr T one_and_half = T(3) * T(int64_t(1) << (Kind<T>::MANTISSA - 1));  // added to a number, it rounds it
  Vector<T> shifted = x * T(1.4426950408889634) + one_and_half;
  Vector<T> k = shifted - one_and_half;
  Vector<T> r = x - k * Kind<T>::LN2_HIGH - k * Kind<T>::LN2_LOW;
  Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + Kind<T>::BIAS) << Kind<T>::MANTISSA;  // the rounded number's last digits are k
  Vector<T> power;
  std::memcpy(&power, &bits, sizeof power);
  Vector<T> y = taylor<T>(r) * power;
  y = x < Kind<T>::SMALLEST ? Vector<T>{} : y;
  return x > Kind<T>::LARGEST ? std::numeric_limits<T>::infinity() - Vector<T>{} : y;
}

template <typename T>
inline Vector<T> load(const T* from, int64_t count) {
  Vector<T> vector{};
  if (count == LANES<T>)
    std::memcpy(&vector, from, sizeof vector);
  else
    std::memcpy(&vector, from, count * sizeof(T));
  return vector;
}

template <typename T>
inline void store(T* to, Vector<T> vector, int64_t count) {
  if (count == LANES<T>)
    std::memcpy(to, &vector, sizeof vector);
  else
    std::memcpy(to, &vector, count * sizeof(T));
}

template <typename T>
inline T sum(Vector<T> vector) {
  T total = 0;
  for (int64_t lane = 0; lane < LANES<T>; ++lane) total += vector[lane];
  return total;
}

struct Sizes {
  int64_t length, dim, states;
  int64_t first_item, last_item, first_tile, last_tile;  // what this call works on; the last ones are not part of it
};

// u, delta, y (batch, length, dim); A (tiles, states, LANES), 0 where there is no feature; B, C (batch, length, states);
// bounds (batch, blocks, tiles, states, LANES), or null if nobody will go backward.
template <typename T>
void forward(const T* u, const T* delta, const T* A, const T* B, const T* C, T* y, T* bounds, const Sizes& sizes) {
  using V = Vector<T>;
  const int64_t tiles = (sizes.dim + LANES<T> - 1) / LANES<T>, blocks = (sizes.length + STEPS - 1) / STEPS;
  std::vector<V> state(sizes.states);
  V step[STEPS], added[STEPS], out[STEPS];
  for (int64_t item = sizes.first_item; item < sizes.last_item; ++item)
    for (int64_t tile = sizes.first_tile; tile < sizes.last_tile; ++tile) {
      const int64_t lanes = std::min(LANES<T>, sizes.dim - tile * LANES<T>);
      std::fill(state.begin(), state.end(), V{});
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t row = item * sizes.length + block * STEPS;
        const int64_t count = std::min(STEPS, sizes.length - block * STEPS);
        for (int64_t t = 0; t < count; ++t) {
          const int64_t place = (row + t) * sizes.dim + tile * LANES<T>;
          step[t] = load(delta + place, lanes);
          added[t] = step[t] * load(u + place, lanes);
          out[t] = V{};
        }
        for (int64_t n = 0; n < sizes.states; ++n) {
          const V a = load(A + (tile * sizes.states + n) * LANES<T>, LANES<T>);
          V h = state[n];
          if (bounds)
            store(bounds + (((item * blocks + block) * tiles + tile) * sizes.states + n) * LANES<T>, h, LANES<T>);
          for (int64_t t = 0; t < count; ++t) {
            const int64_t place = (row + t) * sizes.states + n;
            h = exp<T>(step[t] * a) * h + added[t] * B[place];
            out[t] += h * C[place];
          }
          state[n] = h;
        }
        for (int64_t t = 0; t < count; ++t)
          store(y + (row + t) * sizes.dim + tile * LANES<T>, out[t], lanes);
      }
    }
}

// As above; dy, du, d_delta (batch, length, dim); dA (batch, tiles, states, LANES), zero before; dB, dC (batch, length,
// states), to which are added the sums over this call's features.
template <typename T>
void backward(const T* u, const T* delta, const T* A, const T* B, const T* C, const T* bounds, const T* dy, T* du,
              T* d_delta, T* dA, T* dB, T* dC, const Sizes& sizes) {
  using V = Vector<T>;
  const int64_t tiles = (sizes.dim + LANES<T> - 1) / LANES<T>, blocks = (sizes.length + STEPS - 1) / STEPS;
  const int64_t own_tiles = sizes.last_tile - sizes.first_tile;
  std::vector<V> later(own_tiles * sizes.states);  // gradients of a block's last states, from the next block
  std::vector<V> sum_b(STEPS * sizes.states), sum_c(STEPS * sizes.states);  // over tiles; over lanes only at the end
  V input[STEPS], step[STEPS], added[STEPS], dy_t[STEPS], decay[STEPS], states[STEPS + 1], d_added[STEPS], d_step[STEPS];
  for (int64_t item = sizes.first_item; item < sizes.last_item; ++item) {
    std::fill(later.begin(), later.end(), V{});
    for (int64_t block = blocks - 1; block >= 0; --block) {
      const int64_t row = item * sizes.length + block * STEPS;
      const int64_t count = std::min(STEPS, sizes.length - block * STEPS);
      std::fill(sum_b.begin(), sum_b.end(), V{});
      std::fill(sum_c.begin(), sum_c.end(), V{});
      for (int64_t tile = sizes.first_tile; tile < sizes.last_tile; ++tile) {
        const int64_t lanes = std::min(LANES<T>, sizes.dim - tile * LANES<T>);
        for (int64_t t = 0; t < count; ++t) {
          const int64_t place = (row + t) * sizes.dim + tile * LANES<T>;
          input[t] = load(u + place, lanes);
          step[t] = load(delta + place, lanes);
          dy_t[t] = load(dy + place, lanes);
          added[t] = step[t] * input[t];
          d_added[t] = d_step[t] = V{};
        }
        for (int64_t n = 0; n < sizes.states; ++n) {
          const V a = load(A + (tile * sizes.states + n) * LANES<T>, LANES<T>);
          states[0] =
              load(bounds + (((item * blocks + block) * tiles + tile) * sizes.states + n) * LANES<T>, LANES<T>);
          for (int64_t t = 0; t < count; ++t) {
            decay[t] = exp<T>(step[t] * a);
            states[t + 1] = decay[t] * states[t] + added[t] * B[(row + t) * sizes.states + n];
          }
          V gradient = later[(tile - sizes.first_tile) * sizes.states + n], da{};
          for (int64_t t = count - 1; t >= 0; --t) {
            const int64_t place = (row + t) * sizes.states + n;
            gradient += dy_t[t] * C[place];
            sum_c[t * sizes.states + n] += states[t + 1] * dy_t[t];
            sum_b[t * sizes.states + n] += gradient * added[t];
            d_added[t] += gradient * B[place];
            gradient *= decay[t];
            const V d_exponent = gradient * states[t];  // of delta A
            d_step[t] += d_exponent * a;
            da += d_exponent * step[t];
          }
          later[(tile - sizes.first_tile) * sizes.states + n] = gradient;
          T* const to = dA + ((item * tiles + tile) * sizes.states + n) * LANES<T>;
          store(to, load(to, LANES<T>) + da, LANES<T>);
        }
        for (int64_t t = 0; t < count; ++t) {
          const int64_t place = (row + t) * sizes.dim + tile * LANES<T>;
          store(du + place, step[t] * d_added[t], lanes);
          store(d_delta + place, d_step[t] + input[t] * d_added[t], lanes);
        }
      }
      for (int64_t place = 0; place < count * sizes.states; ++place) {
        dB[row * sizes.states + place] += sum<T>(sum_b[place]);
        dC[row * sizes.states + place] += sum<T>(sum_c[place]);
      }
    }
  }
}

}  // namespace

#define DEFINE(T)                                                                                                   \
  void forward_##T(const T* u, const T* delta, const T* A, const T* B, const T* C, T* y, T* bounds,                 \
                   const Sizes* sizes) {                                                                            \
    forward(u, delta, A, B, C, y, bounds, *sizes);                                                                  \
  }                                                                                                                 \
  void backward_##T(const T* u, const T* delta, const T* A, const T* B, const T* C, const T* bounds, const T* dy,   \
                    T* du, T* d_delta, T* dA, T* dB, T* dC, const Sizes* sizes) {                                   \
    backward(u, delta, A, B, C, bounds, dy, du, d_delta, dA, dB, dC, *sizes);                                       \
  }

extern "C" {
DEFINE(float)
DEFINE(double)
}
