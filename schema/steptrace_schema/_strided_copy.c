/* Copying an array into another of its shape where neither need be contiguous.

   NumPy calls a function for each element, or for each run of the last axis at best. Here runs of a
   few common lengths are copied by an instruction or two. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

/* An axis: its extent, and the bytes from one index to the next in the target and in the source. */
typedef struct {
    Py_ssize_t extent, to, from;
} Axis;

#define COPY(size)                                                                                 \
    for (Py_ssize_t i = 0; i < outer.extent; i++)                                                  \
        for (Py_ssize_t k = 0; k < inner.extent; k++)                                              \
            memcpy(target + i * outer.to + k * inner.to,                                           \
                   source + i * outer.from + k * inner.from, size)

static void copy_plane(Axis outer, Axis inner, char *target, const char *source, size_t run)
{
    switch (run) {
    case 1: COPY(1); break;
    case 2: COPY(2); break;
    case 4: COPY(4); break;
    case 8: COPY(8); break;
    case 16: COPY(16); break;
    case 32: COPY(32); break;
    case 64: COPY(64); break;
    default: COPY(run);
    }
}

static void copy_axes(const Axis *axes, int count, char *target, const char *source, size_t run)
{
    if (count == 2) {
        copy_plane(axes[0], axes[1], target, source, run);
        return;
    }
    for (Py_ssize_t i = 0; i < axes->extent; i++)
        copy_axes(axes + 1, count - 1, target + i * axes->to, source + i * axes->from, run);
}

static int are_alike(const Py_buffer *target, const Py_buffer *source)
{
    if (target->ndim != source->ndim || target->itemsize != source->itemsize)
        return 0;
    for (int k = 0; k < target->ndim; k++)
        if (target->shape[k] != source->shape[k])
            return 0;
    return 1;
}

static void copy_buffer(const Py_buffer *target, const Py_buffer *source)
{
    Axis axes[PyBUF_MAX_NDIM + 2];
    size_t run = (size_t)target->itemsize;
    int rest = target->ndim;
    /* The last axes, as long as both arrays are contiguous there, make one run. */
    while (rest && target->strides[rest - 1] == (Py_ssize_t)run &&
           source->strides[rest - 1] == (Py_ssize_t)run)
        run *= (size_t)target->shape[--rest];
    int count = rest < 2 ? 2 : rest;
    for (int k = 0; k < count - rest; k++)
        axes[k] = (Axis){1, 0, 0};
    for (int k = 0; k < rest; k++)
        axes[count - rest + k] = (Axis){target->shape[k], target->strides[k], source->strides[k]};
    copy_axes(axes, count, target->buf, source->buf, run);
}

static PyObject *copy_strided(PyObject *module, PyObject *args)
{
    PyObject *to, *from;
    Py_buffer target, source;
    if (!PyArg_ParseTuple(args, "OO", &to, &from))
        return NULL;
    if (PyObject_GetBuffer(to, &target, PyBUF_STRIDED) < 0)
        return NULL;
    if (PyObject_GetBuffer(from, &source, PyBUF_STRIDED_RO) < 0) {
        PyBuffer_Release(&target);
        return NULL;
    }
    if (are_alike(&target, &source)) {
        Py_BEGIN_ALLOW_THREADS
        copy_buffer(&target, &source);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "target and source have not the same shape and size");
    }
    PyBuffer_Release(&source);
    PyBuffer_Release(&target);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"copy_strided", copy_strided, METH_VARARGS,
     "copy_strided(target, source)\n--\n\nCopy an array into another that shares no memory with it."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_strided_copy", "Copies of strided arrays.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__strided_copy(void)
{
    return PyModuleDef_Init(&module);
}
