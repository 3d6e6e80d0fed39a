//! Memory given out: through the buffer protocol, and as DLPack tensors of bytes. Layouts follow `dlpack.h` 1.0, and the form before versions.
#![expect(unsafe_code, reason = "C structures that other libraries read and free")]

use std::ffi::{CStr, c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// `(kDLCPU, 0)`.
pub(crate) const CPU: (i32, i32) = (1, 0);
const UNSIGNED: u8 = 1;
const READ_ONLY: u64 = 1;
const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// What a consumer asks of `__dlpack__`.
pub(crate) struct Asked {
    pub(crate) stream: bool,
    pub(crate) max_version: Option<(u32, u32)>,
    pub(crate) dl_device: Option<(i32, i32)>,
    pub(crate) copy: Option<bool>,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: Tensor,
}

/// What a tensor points to: its shape, and the object whose memory it is.
struct Context<M> {
    managed: M,
    shape: [i64; 1],
    strides: [i64; 1],
    /// Taken when the tensor is freed.
    owner: Option<Py<PyAny>>,
}

/// Fills a view of `len` bytes at `base`.
///
/// # Safety
/// `view` is Python's to be filled, `owner` the object asked, and the bytes stay in place while `owner` lives.
pub(crate) unsafe fn export_buffer(
    owner: *mut ffi::PyObject,
    view: *mut ffi::Py_buffer,
    flags: c_int,
    base: *mut u8,
    len: usize,
    readonly: bool,
) -> PyResult<()> {
    // SAFETY: the caller's promise; the call takes a reference to `owner` for the view, or sets an error.
    match unsafe { ffi::PyBuffer_FillInfo(view, owner, base.cast(), len as isize, c_int::from(readonly), flags) } {
        0 => Ok(()),
        _ => Python::attach(|py| Err(PyErr::fetch(py))),
    }
}

/// A capsule with a tensor of `len` unsigned bytes at `base`, which stay in place while `owner` lives.
pub(crate) fn export<'py>(
    owner: &Bound<'py, PyAny>,
    base: *mut u8,
    len: usize,
    readonly: bool,
    asked: &Asked,
) -> PyResult<Bound<'py, PyCapsule>> {
    if asked.stream {
        return Err(PyBufferError::new_err("this memory is the CPU's, which has no streams: pass stream=None"));
    }
    if asked.dl_device.is_some_and(|device| device != CPU) {
        return Err(PyBufferError::new_err("this memory is the CPU's: export it there, then copy it to the device"));
    }
    if asked.copy == Some(true) {
        return Err(PyBufferError::new_err("this library does not copy: export without copy=True, then clone"));
    }
    let tensor = Tensor {
        data: base.cast(),
        device_type: CPU.0,
        device_id: CPU.1,
        ndim: 1,
        code: UNSIGNED,
        bits: 8,
        lanes: 1,
        shape: std::ptr::null_mut(),
        strides: std::ptr::null_mut(),
        byte_offset: 0,
    };
    if asked.max_version.is_some_and(|(major, _)| major >= 1) {
        let flags = if readonly { READ_ONLY } else { 0 };
        let deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)> = Some(free::<ManagedVersioned>);
        let managed = ManagedVersioned { major: 1, minor: 0, context: std::ptr::null_mut(), deleter, flags, tensor };
        return capsule(owner, len, managed);
    }
    if readonly {
        return Err(PyBufferError::new_err(
            "this memory is read-only, which DLPack before 1.0 cannot say: use numpy.frombuffer, or a newer consumer",
        ));
    }
    let deleter: Option<unsafe extern "C" fn(*mut Managed)> = Some(free::<Managed>);
    capsule(owner, len, Managed { tensor, context: std::ptr::null_mut(), deleter })
}

/// Either form of a managed tensor.
trait Form: Sized {
    const NAME: &'static CStr;
    fn tensor(&mut self) -> &mut Tensor;
    fn context(&mut self) -> &mut *mut c_void;
}

impl Form for Managed {
    const NAME: &'static CStr = PLAIN;
    fn tensor(&mut self) -> &mut Tensor {
        &mut self.tensor
    }
    fn context(&mut self) -> &mut *mut c_void {
        &mut self.context
    }
}

impl Form for ManagedVersioned {
    const NAME: &'static CStr = VERSIONED;
    fn tensor(&mut self) -> &mut Tensor {
        &mut self.tensor
    }
    fn context(&mut self) -> &mut *mut c_void {
        &mut self.context
    }
}

fn capsule<'py, M: Form>(owner: &Bound<'py, PyAny>, len: usize, managed: M) -> PyResult<Bound<'py, PyCapsule>> {
    let owner_held = Some(owner.clone().unbind());
    let context = Box::new(Context { managed, shape: [len as i64], strides: [1], owner: owner_held });
    let at = Box::into_raw(context);
    // SAFETY: `at` is a live box that nobody else knows yet; what is written are pointers into itself, and it does not move any more.
    let managed = unsafe {
        let context = &mut *at;
        let (shape, strides) = (context.shape.as_mut_ptr(), context.strides.as_mut_ptr());
        (context.managed.tensor().shape, context.managed.tensor().strides) = (shape, strides);
        *context.managed.context() = at.cast();
        &raw mut context.managed
    };
    // SAFETY: the name is static, the pointer not null; on failure nobody has the tensor, and it is freed here.
    unsafe {
        let made = ffi::PyCapsule_New(managed.cast(), M::NAME.as_ptr(), Some(dropped::<M>));
        if made.is_null() {
            drop(Box::from_raw(at));
            return Err(PyErr::fetch(owner.py()));
        }
        Ok(Bound::from_owned_ptr(owner.py(), made).cast_into_unchecked())
    }
}

/// Frees a tensor, from whatever thread its last user is on.
unsafe extern "C" fn free<M: Form>(managed: *mut M) {
    if managed.is_null() {
        return;
    }
    // SAFETY: consumers call this once, with the tensor they were given, whose context is the box made in `capsule`.
    let mut context = unsafe { Box::from_raw((*(*managed).context()).cast::<Context<M>>()) };
    let owner = context.owner.take();
    let mut held = Some(owner);
    if Python::try_attach(|_| drop(held.take())).is_none() {
        // The interpreter is gone, and with it whoever would take the reference back.
        std::mem::forget(held);
    }
}

/// A capsule is gone: if nobody has taken its tensor, it goes along. Who takes it renames the capsule.
unsafe extern "C" fn dropped<M: Form>(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with a capsule made above; the name tells whether the pointer is still ours.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, M::NAME.as_ptr()) == 1 {
            free::<M>(ffi::PyCapsule_GetPointer(capsule, M::NAME.as_ptr()).cast());
        }
    }
}
