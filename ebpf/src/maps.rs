//! The maps, and the counters. What each is for stands at its name in the shared `map` module.

use core::{
    ffi::c_void,
    ptr::{addr_of, read_volatile},
};

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use imds_guard_ebpf::{
    Bypass, CallerRecord, Counter, EARLY_MARK, Endpoint, EndpointKey, Handshake, HandshakeKey,
    Holder, Lifeline, Pass, Prefilter, Scope, Share, prefilter_bit,
};

#[btf_map]
static RECORDS: SkStorage<CallerRecord> = SkStorage::new();
#[btf_map]
static LISTENERS: SkStorage<u32> = SkStorage::new();
#[btf_map]
static UPSTREAM: SkStorage<u32> = SkStorage::new();
#[btf_map]
static PASSES: SkStorage<Pass> = SkStorage::new();
// Not LRU, so that a burst of connections that wait for a busy listener loses none of them.
#[map]
pub(crate) static HANDSHAKES: HashMap<HandshakeKey, Handshake> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
// Anybody can begin handshakes and never end them (an option of the own socket is enough), until the table above is full.
// Here the oldest falls out: theirs, for an honest handshake over loopback lasts microseconds. What its caller has closed
// before the accepting side was done comes here, too: mostly that is done a moment later, and else it falls out.
#[map]
pub(crate) static OVERFLOW: LruHashMap<HandshakeKey, Handshake> =
    LruHashMap::with_max_entries(4096, 0);
#[map]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, Endpoint> = HashMap::with_max_entries(64, 0);
#[map]
pub(crate) static ADDRESSES: HashMap<[u8; 16], u32> = HashMap::with_max_entries(64, 0);
#[map]
pub(crate) static RAW_SOCKETS: HashMap<u64, u32> = HashMap::with_max_entries(64, 0);
// The only variable: `.bss` is a map with this as its one value. User space writes it, no program does.
static mut PREFILTER: Prefilter = Prefilter {
    endpoints: 0,
    addresses: 0,
    idle: 0,
};
#[map]
pub(crate) static SHARED_FILTERS: HashMap<u32, u32> = HashMap::with_max_entries(64, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

// LRU: a user who makes ever more namespaces costs the others a second note, not their place.
#[map]
pub(crate) static NAMESPACES: LruHashMap<u64, u64> = LruHashMap::with_max_entries(8192, 0);
#[map]
pub(crate) static ARRIVALS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

// LRU: whoever has not connected for long has its whole share again anyway.
#[map]
pub(crate) static SHARES: LruHashMap<Holder, Share> = LruHashMap::with_max_entries(4096, 0);

#[map]
pub(crate) static EARLY: HashMap<u64, u32> = HashMap::with_max_entries(16, 0);
#[map]
pub(crate) static BYPASSES: HashMap<Scope, Bypass> = HashMap::with_max_entries(256, 0);
#[map]
pub(crate) static LIFELINES: HashMap<Lifeline, u32> = HashMap::with_max_entries(64, 0);
#[map]
static LEASE: Array<u64> = Array::with_max_entries(1, 0);

/// Until when the guard is taken to live; 0: none has run since the machine started.
#[inline(always)]
pub(crate) fn lease() -> u64 {
    // SAFETY: a checked pointer into the map; the value is aligned, so it is read and written as a whole.
    LEASE
        .get_ptr(0)
        .map_or(0, |until| unsafe { read_volatile(until) })
}

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

#[inline(always)]
pub(crate) fn passes() -> *mut c_void {
    addr_of!(PASSES).cast_mut().cast()
}

/// Whether a mark in [`upstream()`] is for that endpoint, now.
#[inline(always)]
pub(crate) fn opens(mark: u32, endpoint_id: u32) -> bool {
    mark == endpoint_id || (mark == endpoint_id ^ EARLY_MARK && lease() == 0)
}

/// Adds one on this CPU; no atomics needed, for nothing else runs this index on the CPU meanwhile.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a checked pointer into this CPU's array.
        unsafe { *slot += 1 }
    }
}

/// Whether the endpoint table may have that key.
#[inline(always)]
pub(crate) fn may_be_endpoint(words: [u32; 4], port: u32) -> bool {
    // SAFETY: a variable of this object, aligned; each half is read as a whole.
    let mask = unsafe { read_volatile(addr_of!(PREFILTER.endpoints)) };
    mask >> prefilter_bit(words, port) & 1 == 0
}

/// Whether callers are steered anywhere.
#[inline(always)]
pub(crate) fn steers() -> bool {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(PREFILTER.idle)) == 0 }
}

/// Whether the address table may have that address.
#[inline(always)]
pub(crate) fn may_be_address(words: [u32; 4]) -> bool {
    // SAFETY: as above.
    let mask = unsafe { read_volatile(addr_of!(PREFILTER.addresses)) };
    mask >> prefilter_bit(words, 0) & 1 == 0
}
