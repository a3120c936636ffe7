//! The maps, and the counters. What each is for stands at its name in the shared `map` module.

use core::{ffi::c_void, ptr::addr_of};

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use imds_guard_ebpf::{CallerRecord, Counter, Endpoint, EndpointKey, HandshakeKey};

#[btf_map]
static RECORDS: SkStorage<CallerRecord> = SkStorage::new();
#[btf_map]
static LISTENERS: SkStorage<u32> = SkStorage::new();
#[btf_map]
static UPSTREAM: SkStorage<u32> = SkStorage::new();
// Not LRU, so that a burst of connections that wait for a busy listener loses none of them.
#[map]
pub(crate) static HANDSHAKES: HashMap<HandshakeKey, CallerRecord> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
// Anybody can begin handshakes and never end them (an option of the own socket is enough), until the table above is full.
// Here the oldest falls out: theirs, for an honest handshake over loopback lasts microseconds.
#[map]
pub(crate) static OVERFLOW: LruHashMap<HandshakeKey, CallerRecord> =
    LruHashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::with_max_entries(64, 0);
#[map]
pub(crate) static PREFILTER: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

// LRU: a user who makes ever more namespaces costs the others a second note, not their place.
#[map]
pub(crate) static NAMESPACES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(8192, 0);
#[map]
pub(crate) static ARRIVALS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

// aya's own SkStorage methods take a connect context only; sock_ops and looked-up listeners need the map itself.
#[inline(always)]
pub(crate) fn records() -> *mut c_void {
    addr_of!(RECORDS).cast_mut().cast()
}

#[inline(always)]
pub(crate) fn listeners() -> *mut c_void {
    addr_of!(LISTENERS).cast_mut().cast()
}

#[inline(always)]
pub(crate) fn upstream() -> *mut c_void {
    addr_of!(UPSTREAM).cast_mut().cast()
}

/// Adds one on this CPU; no atomics needed, for nothing else runs this index on the CPU meanwhile.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a checked pointer into this CPU's array.
        unsafe { *slot += 1 }
    }
}
