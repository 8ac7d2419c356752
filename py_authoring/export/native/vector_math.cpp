// The vector functions of compiled packages, under the names by which torch's headers call libsleef: for LANES floats and half as
// many doubles. Linked into a library whose code calls one of them; the linker leaves out the others.
//
// What networks call often is computed in float (at most about one unit in the last place), what they seldom call in double, and
// what is left by the C library, lane by lane. Polynomials are minimax fits of our own.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <limits>

#if defined(__AVX512F__)
#define LANES 16
#define FLOATS f16
#define DOUBLES d8
#else
#define LANES 8
#define FLOATS f8
#define DOUBLES d4
#endif

// Newer C libraries have newer versions of these, which older ones lack.
__asm__(".symver hypot,hypot@GLIBC_2.2.5\n.symver hypotf,hypotf@GLIBC_2.2.5\n"
        ".symver fmod,fmod@GLIBC_2.2.5\n.symver fmodf,fmodf@GLIBC_2.2.5");

namespace {

typedef float F __attribute__((vector_size(LANES * 4)));
typedef int32_t I __attribute__((vector_size(LANES * 4)));
typedef float Half __attribute__((vector_size(LANES * 2)));
typedef double D __attribute__((vector_size(LANES * 4)));
typedef int64_t L __attribute__((vector_size(LANES * 4)));

constexpr float INF = std::numeric_limits<float>::infinity();
// A sum with it has no fraction, and its lowest bits count.
constexpr float SHIFT = 0x1.8p23f;
constexpr double LONG_SHIFT = 0x1.8p52;
constexpr int32_t SHIFT_BITS = 0x4B400000;
constexpr int64_t LONG_SHIFT_BITS = 0x4338000000000000;

// a·b + c, rounded once.
#if LANES == 16
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline D fma(D a, D b, D c) { return _mm512_fmadd_pd(a, b, c); }
inline D root(D x) { return _mm512_sqrt_pd(x); }
#else
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline D fma(D a, D b, D c) { return _mm256_fmadd_pd(a, b, c); }
inline D root(D x) { return _mm256_sqrt_pd(x); }
#endif

template <class V, class Number> inline V all(Number value) { return V{} + value; }

// The polynomial with these coefficients, the lowest first.
template <class V, class Number> inline V polynomial(V, Number last) { return all<V>(last); }
template <class V, class Number, class... More> inline V polynomial(V x, Number first, More... more) {
  return fma(polynomial(x, more...), x, all<V>(first));
}

inline F size_of(F x) { return (F)((I)x & 0x7FFFFFFF); }
inline D size_of(D x) { return (D)((L)x & INT64_MAX); }
inline F with_sign(F size, F of) { return (F)((I)size | ((I)of & INT32_MIN)); }
inline D with_sign(D size, D of) { return (D)((L)size | ((L)of & INT64_MIN)); }

// p · 2^n, where 2^n alone may be too large or too small for a float, and n = shifted - SHIFT.
inline F scaled(F p, F shifted) {
#if LANES == 16
  return _mm512_scalef_ps(p, shifted - SHIFT);
#else
  const I power = (I)shifted - SHIFT_BITS, part = power >> 1;
  return p * (F)((part + 127) << 23) * (F)((power - part + 127) << 23);
#endif
}

// (e^r - 1 - r) / r^2 for |r| up to log(2) / 2.
inline F exp_rest(F r) { return polynomial(r, 0.49999994f, 0.16666515f, 0.041668456f, 0.0083694188f, 0.0013813144f); }

// e^x = 2^n · e^r. NaN stays NaN.
inline F exp_of(F x) {
  x = x > 89.0f ? all<F>(89.0f) : x;
  x = x < -104.0f ? all<F>(-104.0f) : x;
  const F shifted = fma(x, all<F>(0x1.715476p0f), all<F>(SHIFT)), n = shifted - SHIFT;
  const F r = fma(n, all<F>(-0x1.7f7d1cp-20f), fma(n, all<F>(-0x1.62e4p-1f), x));
  return scaled(fma(r * r, exp_rest(r), r) + 1.0f, shifted);
}

inline F exp2_of(F x) {
  x = x > 130.0f ? all<F>(130.0f) : x;
  x = x < -152.0f ? all<F>(-152.0f) : x;
  const F shifted = x + SHIFT, part = x - (shifted - SHIFT), r = part * 0x1.62e43p-1f;
  const F lost = fma(part, all<F>(0x1.62e43p-1f), -r) + part * -0x1.05c61p-29f; // of part · log(2)
  return scaled((fma(r * r, exp_rest(r), lost) + r) + 1.0f, shifted);
}

// log x = n·log 2 + log(1 + f), where 1 + f lies around 1.
inline F log_of(F x) {
  const auto is_small = x < 0x1p-126f;
  const F scaled = is_small ? x * 0x1p23f : x;
  const I bits = (I)scaled, power = (bits - 0x3F3504F3) >> 23;
  const F n = __builtin_convertvector(power, F) - (is_small ? all<F>(23.0f) : F{});
  const F f = (F)(bits - (power << 23)) - 1.0f;
  const F p = polynomial(f, 0.33333331f, -0.25000855f, 0.20001361f, -0.16622166f, 0.14197603f, -0.13168189f, 0.12796742f, -0.076577827f);
  const F z = f * f, rest = fma(z * f, p, fma(n, all<F>(-0x1.bd0106p-13f), z * -0.5f));
  const F y = fma(n, all<F>(0x1.63p-1f), f + rest);
  return x > 0.0f ? (x < INF ? y : x) : (x == 0.0f ? all<F>(-INF) : all<F>(NAN));
}

inline F tanh_of(F x) {
  const F t = size_of(x), z = x * x;
  const F near = fma(x * z, polynomial(z, -0.33333322f, 0.1333296f, -0.053927727f, 0.021657253f, -0.0082519203f, 0.0025702824f, -0.00045073393f), x);
  const F far = 1.0f - 2.0f / (exp_of(2.0f * t) + 1.0f);
  return with_sign(t < 0.9f ? near : far, x); // of zero, too
}

// By its series, or as 1 - e^-q.
inline F erf_of(F x) {
  const F size = size_of(x), t = size > 4.0f ? all<F>(4.0f) : size, z = x * x;
  const F series = polynomial(z, 0.12837917f, -0.37612635f, 0.11283743f, -0.026863305f, 0.0052154865f, -0.00084096921f, 0.00010770014f, -8.3643999e-6f);
  const F q = polynomial(t, -0.0001692045f, 1.1294883f, 0.63340086f, 0.10822038f, -0.025080611f, 0.0041562524f, -0.00043139301f, 2.0828569e-5f);
  return size < 1.0f ? fma(x, series, x) : with_sign(1.0f - exp_of(-q), x);
}

// A function of doubles for floats.
template <class Function> inline F in_double(F x, const Function &function) {
  Half halves[2];
  std::memcpy(halves, &x, sizeof x);
  for (Half &half : halves)
    half = __builtin_convertvector(function(__builtin_convertvector(half, D)), Half);
  std::memcpy(&x, halves, sizeof x);
  return x;
}

// The functions below are exact enough for floats, and are for numbers that floats can be.

// e^x = scale · (1 + part).
struct Power {
  D scale, part;
};
inline Power power_of(D x) {
  x = x > 150.0 ? all<D>(150.0) : x;
  x = x < -150.0 ? all<D>(-150.0) : x;
  const D shifted = fma(x, all<D>(0x1.71547652b82fep0), all<D>(LONG_SHIFT)), n = shifted - LONG_SHIFT;
  const D r = fma(n, all<D>(-0x1.abc9e3b39803fp-56), fma(n, all<D>(-0x1.62e42fefa39efp-1), x));
  const D q = polynomial(r, 0.500000000011361, 0.16666666759224727, 0.04166666591101982, 0.008333287350821145, 0.001388898902986114,
                         0.00019906122716910118, 2.479626127011579e-05);
  return {(D)(((L)shifted - LONG_SHIFT_BITS + 1023) << 52), fma(r * r, q, r)};
}

inline D long_exp(D x) {
  const Power p = power_of(x);
  return fma(p.scale, p.part, p.scale);
}

inline D long_expm1(D x) {
  const Power p = power_of(x);
  return x == 0.0 ? x : fma(p.scale, p.part, p.scale - 1.0);
}

inline D long_log(D x) {
  const L bits = (L)x, power = (bits - 0x3FE6A09E667F3BCD) >> 52;
  const D n = (D)(power + LONG_SHIFT_BITS) - LONG_SHIFT, m = (D)(bits - (power << 52));
  const D s = (m - 1.0) / (m + 1.0), z = s * s;
  const D p = polynomial(z, 0.3333333333802993, 0.19999997761436294, 0.14286060346479487, 0.11087833352766016, 0.0979609920356871);
  const D y = fma(n, all<D>(0x1.62e42fefa39efp-1), fma(2.0 * s * z, p, 2.0 * s));
  return x > 0.0 ? (x < static_cast<double>(INF) ? y : x) : (x == 0.0 ? all<D>(-INF) : all<D>(NAN));
}

inline D long_log1p(D x) {
  const D u = x + 1.0, y = long_log(u), lost = (x - (u - 1.0)) / u;
  return x == 0.0 ? x : u > 0.0 ? (u < static_cast<double>(INF) ? y + lost : u) : y;
}

inline D long_sinh(D x) {
  const D m = long_expm1(size_of(x));
  return with_sign((m + m / (m + 1.0)) * 0.5, x);
}

inline D long_cosh(D x) {
  const D e = long_exp(size_of(x));
  return (e + 1.0 / e) * 0.5;
}

inline D long_asinh(D x) {
  const D t = size_of(x), z = t * t;
  const D y = long_log1p(t + z / (root(z + 1.0) + 1.0));
  return with_sign(t < static_cast<double>(INF) ? y : t, x);
}

inline D long_acosh(D x) {
  const D t = x - 1.0;
  return x < 1.0 ? all<D>(NAN) : long_log1p(t + root(t * (t + 2.0)));
}

inline D long_atanh(D x) {
  const D t = size_of(x);
  return with_sign(0.5 * long_log1p(2.0 * t / (1.0 - t)), x);
}

// Angles beyond have more digits before the point than pi/2 has here.
constexpr float LARGEST_ANGLE = 0x1p28f;

struct Both {
  D sin, cos;
};
inline Both long_sincos(D x) {
  const D shifted = fma(x, all<D>(0x1.45f306dc9c883p-1), all<D>(LONG_SHIFT)), n = shifted - LONG_SHIFT;
  const D r = fma(n, all<D>(-0x1.1a62633145c07p-54), fma(n, all<D>(-0x1.921fb54442d18p0), x)), z = r * r;
  const D sin = fma(r * z, polynomial(z, -0.1666666664142663, 0.008333329362293083, -0.0001983932714092258, 2.7182373211725138e-06), r);
  const D cos = fma(z * z, polynomial(z, 0.041666666622477366, -0.0013888883722656235, 2.479951177317395e-05, -2.7209548552409363e-07),
                    fma(z, all<D>(-0.5), all<D>(1.0)));
  const L quarter = (L)shifted;
  const auto swaps = (quarter & 1) != 0;
  const D first = swaps ? cos : sin, second = swaps ? sin : cos;
  return {(D)((L)first ^ ((quarter & 2) << 62)), (D)((L)second ^ (((quarter + 1) & 2) << 62))};
}

// The C library's function for every lane.
template <class V, class Function> inline V by_lane(V x, const Function &function) {
  V y;
  for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i)
    y[i] = function(x[i]);
  return y;
}
template <class V, class Function> inline V by_lane(V x, V y, const Function &function) {
  V z;
  for (unsigned i = 0; i < sizeof(V) / sizeof(x[0]); ++i)
    z[i] = function(x[i], y[i]);
  return z;
}

template <class Ours, class Theirs> inline F angle(F x, const Ours &ours, const Theirs &theirs) {
  F y = x == 0.0f ? x : in_double(x, ours); // zero keeps its sign
  const I is_far = ~(size_of(x) <= LARGEST_ANGLE);
  for (int i = 0; i < LANES; ++i)
    if (is_far[i])
      y[i] = theirs(x[i]);
  return y;
}
inline F sin_of(F x) {
  return angle(x, [](D v) { return long_sincos(v).sin; }, [](float v) { return std::sin(v); });
}
inline F cos_of(F x) {
  F y = angle(x, [](D v) { return long_sincos(v).cos; }, [](float v) { return std::cos(v); });
  return x == 0.0f ? all<F>(1.0f) : y;
}
inline F tan_of(F x) {
  return angle(x, [](D v) { const Both both = long_sincos(v); return both.sin / both.cos; }, [](float v) { return std::tan(v); });
}

template <class V> struct Pair {
  V x, y;
};

} // namespace

#define NAMED(name, numbers, accuracy) PASTED(name, numbers, accuracy)
#define PASTED(name, numbers, accuracy) Sleef_##name##numbers##accuracy
#define FUNCTION extern "C" __attribute__((visibility("hidden")))
#define COMPUTED(name, value)                                                                                                  \
  FUNCTION F NAMED(name, FLOATS, _u10)(F x) { return value; }
#define BY_LANE(name, type, numbers, accuracy, function)                                                                       \
  FUNCTION type NAMED(name, numbers, accuracy)(type x) {                                                                       \
    return by_lane(x, [](auto v) { return function(v); });                                                                     \
  }
// What the C library computes too roughly in float.
#define IN_DOUBLE_BY_LANE(name, accuracy)                                                                                      \
  FUNCTION F NAMED(name, FLOATS, accuracy)(F x) {                                                                              \
    return by_lane(x, [](double v) { return std::name(v); });                                                                  \
  }                                                                                                                            \
  BY_LANE(name, D, DOUBLES, accuracy, std::name)
#define BOTH_BY_LANE(name, accuracy)                                                                                           \
  BY_LANE(name, F, FLOATS, accuracy, std::name)                                                                                \
  BY_LANE(name, D, DOUBLES, accuracy, std::name)
#define OF_TWO(name, type, numbers, accuracy)                                                                                  \
  FUNCTION type NAMED(name, numbers, accuracy)(type x, type y) {                                                               \
    return by_lane(x, y, [](auto v, auto w) { return std::name(v, w); });                                                      \
  }
#define BOTH_OF_TWO(name, accuracy) OF_TWO(name, F, FLOATS, accuracy) OF_TWO(name, D, DOUBLES, accuracy)

COMPUTED(exp, exp_of(x))
COMPUTED(log, log_of(x))
COMPUTED(tanh, tanh_of(x))
COMPUTED(erf, erf_of(x))
COMPUTED(exp2, exp2_of(x))
COMPUTED(expm1, in_double(x, long_expm1))
COMPUTED(log2, in_double(x, [](D v) { return long_log(v) * 0x1.71547652b82fep0; }))
COMPUTED(log10, in_double(x, [](D v) { return long_log(v) * 0x1.bcb7b1526e50ep-2; }))
COMPUTED(log1p, in_double(x, long_log1p))
COMPUTED(sinh, in_double(x, long_sinh))
COMPUTED(cosh, in_double(x, long_cosh))
COMPUTED(asinh, in_double(x, long_asinh))
COMPUTED(acosh, in_double(x, long_acosh))
COMPUTED(atanh, in_double(x, long_atanh))
COMPUTED(sin, sin_of(x))
COMPUTED(cos, cos_of(x))
COMPUTED(tan, tan_of(x))
FUNCTION F NAMED(sin, FLOATS, _u35)(F x) { return sin_of(x); }
FUNCTION F NAMED(cos, FLOATS, _u35)(F x) { return cos_of(x); }
FUNCTION Pair<F> NAMED(sincos, FLOATS, _u10)(F x) { return {sin_of(x), cos_of(x)}; }

BY_LANE(exp, D, DOUBLES, _u10, std::exp)
BY_LANE(log, D, DOUBLES, _u10, std::log)
BY_LANE(tanh, D, DOUBLES, _u10, std::tanh)
BY_LANE(erf, D, DOUBLES, _u10, std::erf)
BY_LANE(exp2, D, DOUBLES, _u10, std::exp2)
BY_LANE(expm1, D, DOUBLES, _u10, std::expm1)
BY_LANE(log2, D, DOUBLES, _u10, std::log2)
BY_LANE(log10, D, DOUBLES, _u10, std::log10)
BY_LANE(log1p, D, DOUBLES, _u10, std::log1p)
BY_LANE(sinh, D, DOUBLES, _u10, std::sinh)
BY_LANE(cosh, D, DOUBLES, _u10, std::cosh)
BY_LANE(asinh, D, DOUBLES, _u10, std::asinh)
BY_LANE(acosh, D, DOUBLES, _u10, std::acosh)
BY_LANE(atanh, D, DOUBLES, _u10, std::atanh)
BY_LANE(sin, D, DOUBLES, _u10, std::sin)
BY_LANE(cos, D, DOUBLES, _u10, std::cos)
BY_LANE(tan, D, DOUBLES, _u10, std::tan)
FUNCTION Pair<D> NAMED(sincos, DOUBLES, _u10)(D x) {
  return {by_lane(x, [](double v) { return std::sin(v); }), by_lane(x, [](double v) { return std::cos(v); })};
}

BOTH_BY_LANE(acos, _u10)
BOTH_BY_LANE(asin, _u10)
BOTH_BY_LANE(atan, _u10)
IN_DOUBLE_BY_LANE(erfc, _u15)
// std::lgamma writes a variable that all threads share
#define LOG_GAMMA [](double v) { int sign; return lgamma_r(v, &sign); }
FUNCTION F NAMED(lgamma, FLOATS, _u10)(F x) { return by_lane(x, LOG_GAMMA); }
FUNCTION D NAMED(lgamma, DOUBLES, _u10)(D x) { return by_lane(x, LOG_GAMMA); }
FUNCTION F NAMED(atan2, FLOATS, _u10)(F x, F y) {
  return by_lane(x, y, [](double v, double w) { return std::atan2(v, w); });
}
OF_TWO(atan2, D, DOUBLES, _u10)
BOTH_OF_TWO(pow, _u10)
BOTH_OF_TWO(hypot, _u05)
BOTH_OF_TWO(fmod, )
BOTH_OF_TWO(nextafter, )
BOTH_OF_TWO(copysign, )
