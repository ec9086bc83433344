/* The sums behind the statistics of tensors, in one pass over their elements.

   NumPy needs a pass for each of them. Elements are taken 64 bytes at a time, whatever the processor's
   vectors are, and added up by their position in these; with no fused multiply-add (see the build
   settings) the same elements give the same bits on every processor. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <string.h>

enum { SUM, SQUARES, ABSOLUTE, LOW, HIGH, ZEROS, COUNT };

#define MAGNITUDE 0x7fffffffffffffffLL /* all bits of a double but its sign */
#define LINE 64                        /* bytes */
#define BLOCK 8192                     /* bytes that stay in the nearest cache from loop to loop */

static inline void finish(double *out, double low, double high, double zeros)
{
    out[LOW] = low < out[LOW] ? low : out[LOW];
    out[HIGH] = high > out[HIGH] ? high : out[HIGH];
    out[ZEROS] += zeros;
}

/* The elements that fill no line. */
static inline void finish_rest(double *out, double value)
{
    out[SUM] += value;
    out[SQUARES] += value * value;
    out[ABSOLUTE] += fabs(value);
    finish(out, value, value, value == 0);
}

typedef void SumFloats(const float *x, const float *minus, Py_ssize_t n, double *out);
typedef void SumDoubles(const double *x, const double *minus, Py_ssize_t n, double *out);

/* Vectors of 16 bytes every processor has. Compilers take wider ones apart, element by element, where
   there are none, which takes ten times as long, so they are for those that say that they have them. */
#define VECTOR 16
#define NAMED(name) name##_16
#define TARGET
#include "_sums_kernel.h"
#undef VECTOR
#undef NAMED
#undef TARGET

#ifdef __x86_64__
#define VECTOR 32
#define NAMED(name) name##_32
#define TARGET __attribute__((target("avx2")))
#include "_sums_kernel.h"
#define HAS_WIDE() __builtin_cpu_supports("avx2")
#define WIDE(name) name##_32
#else
#define HAS_WIDE() 0
#define WIDE(name) name##_16
#endif

/* 'f' or 'd' for elements of this processor's byte order, 0 for others. */
static char element_type(const Py_buffer *buffer)
{
    const char *format = buffer->format;
    if (*format == '=' || *format == (PY_LITTLE_ENDIAN ? '<' : '>'))
        format++;
    return (*format == 'f' || *format == 'd') && format[1] == 0 ? *format : 0;
}

static int get_rows(PyObject *object, Py_buffer *rows)
{
    if (PyObject_GetBuffer(object, rows, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    if (rows->ndim == 2 && element_type(rows))
        return 0;
    PyBuffer_Release(rows);
    PyErr_SetString(PyExc_TypeError, "rows must have two dimensions, of float32 or float64");
    return -1;
}

static PyObject *row_sums(PyObject *module, PyObject *args)
{
    PyObject *values, *minus, *result = NULL;
    Py_buffer rows, others = {0}, out;
    int may_be_wide = 1;
    if (!PyArg_ParseTuple(args, "OOO|p", &values, &minus, &result, &may_be_wide))
        return NULL;
    const int is_wide = may_be_wide && HAS_WIDE();
    SumFloats *sum_floats = is_wide ? WIDE(sum_floats) : sum_floats_16;
    SumDoubles *sum_doubles = is_wide ? WIDE(sum_doubles) : sum_doubles_16;
    if (get_rows(values, &rows) < 0)
        return NULL;
    if (minus != Py_None && get_rows(minus, &others) < 0)
        goto no_others;
    if (PyObject_GetBuffer(result, &out, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0)
        goto no_out;
    Py_ssize_t height = rows.shape[0], n = rows.shape[1];
    int is_alike = others.buf == NULL ||
        (others.shape[0] == height && others.shape[1] == n &&
         element_type(&others) == element_type(&rows));
    /* Divided, because a product with a claimed extent may overflow. */
    const Py_ssize_t width = COUNT * (Py_ssize_t)sizeof(double);
    if (!is_alike || element_type(&out) != 'd' || out.len % width || out.len / width != height) {
        PyErr_SetString(PyExc_ValueError, "rows, what is subtracted and the result do not fit");
        goto failed;
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < height; row++) {
        double *sums = (double *)out.buf + row * COUNT;
        for (int k = 0; k < COUNT; k++)
            sums[k] = k == LOW ? INFINITY : k == HIGH ? -INFINITY : 0;
        const char *x = (const char *)rows.buf + row * n * rows.itemsize;
        const char *y = others.buf ? (const char *)others.buf + row * n * rows.itemsize : NULL;
        if (element_type(&rows) == 'f')
            sum_floats((const float *)x, (const float *)y, n, sums);
        else
            sum_doubles((const double *)x, (const double *)y, n, sums);
    }
    Py_END_ALLOW_THREADS
failed:
    PyBuffer_Release(&out);
no_out:
    if (others.obj)
        PyBuffer_Release(&others);
no_others:
    PyBuffer_Release(&rows);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"row_sums", row_sums, METH_VARARGS,
     "row_sums(values, minus, out, wide=True, /)\n--\n\n"
     "Put sum, sum of squares, sum of absolute values, extremes and zeros of each row into `out`, by\n"
     "vectors of 32 bytes where the processor has them, or of 16: the bits are the same."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_sums", "One-pass sums of rows.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sums(void)
{
    return PyModuleDef_Init(&module);
}
