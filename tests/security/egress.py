"""Sends marks towards metadata addresses by ways that pass no connect(): egress.py INTERFACE (WAY TARGET MARK)...

Prints for each `sent`, or `errno N` where the kernel refused. Whether it arrived, the test sees at the other end of the cable.
"""
import ctypes, os, socket, struct, sys, time

DEV, SOURCE = sys.argv[1], "10.200.0.1"
target, mark, V4 = "", b"", True


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def tcp(flags=2, payload=None):
    payload = mark if payload is None else payload
    head = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 5 << 4, flags, 8192, 0, 0)
    source, to = socket.inet_aton(SOURCE), socket.inet_aton(target) if V4 else b"\0" * 4
    check = checksum(source + to + struct.pack("!BBH", 0, 6, len(head) + len(payload)) + head + payload)
    return head[:16] + struct.pack("!H", check) + head[18:] + payload


def ip(payload, protocol=6, fragment=0):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0,
                       socket.inet_aton(SOURCE), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ip6(payload, following):
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), following, 64,
                       socket.inet_pton(10, "fd00:ec2::1"), socket.inet_pton(10, target)) + payload


def raw(data, protocol=255, port=0, so_mark=0, device=None):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    if device:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    if so_mark:
        s.setsockopt(socket.SOL_SOCKET, 36, so_mark)
        s.setsockopt(socket.SOL_SOCKET, 12, so_mark)
    for piece in data if isinstance(data, list) else [data]:
        s.sendto(piece, (target, port))


def frame(ethertype, payload, bypass=False, so_mark=0):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if bypass:
        s.setsockopt(263, 20, 1)
    if so_mark:
        s.setsockopt(socket.SOL_SOCKET, 36, so_mark)
        s.setsockopt(socket.SOL_SOCKET, 12, so_mark)
    s.bind((DEV, 0))
    s.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + ethertype + payload)


def udp(family=socket.AF_INET, to=None, protocol=0):
    s = socket.socket(family, socket.SOCK_DGRAM, protocol)
    s.sendto(mark, to or (target, 80))


def udp_connected():
    s = socket.socket(socket.AF_INET if V4 else socket.AF_INET6, socket.SOCK_DGRAM)
    s.connect((target, 80))
    s.send(mark)


def udp_unspec():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = struct.pack("=HH4s8x", 0, socket.htons(80), socket.inet_aton(target))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sendto(s.fileno(), mark, len(mark), 0, address, 16) < 0:
        raise OSError(ctypes.get_errno(), "sendto")


def fragments(whole):
    raw([ip(whole[:24], fragment=0x2000), ip(whole[24:], fragment=3)])


def ping(kind):
    s = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
    head = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    body = struct.pack("!BBHHH", 8, 0, checksum(head + mark), 1, 1) + mark
    s.sendto(body, (target, 0))


def raw6(payload, following):
    s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255)
    s.setsockopt(41, 36, 1)  # IPV6_HDRINCL
    s.sendto(ip6(payload, following), (target, 0))


IPV4, TAG, QINQ, IPV6 = b"\x08\0", b"\x81\0\0\0", b"\x88\xa8\0\x05", b"\x86\xdd"
WAYS = {
    "udp": lambda: udp() if V4 else udp(socket.AF_INET6),
    "udp-connected": udp_connected,
    "udp-unspec": udp_unspec,
    "udp-mapped": lambda: udp(socket.AF_INET6, ("::ffff:" + target, 80)),
    "udplite": lambda: udp(protocol=136),
    "dns": lambda: udp(to=(target, 53)),
    "ntp": lambda: udp(to=(target, 123)),
    "other-port": lambda: udp(to=(target, 8080)),
    "raw-tcp": lambda: raw(tcp(), 6),
    "raw-marked": lambda: raw(tcp(), 6, so_mark=0x1234),
    "bare": lambda: raw(tcp(16, b""), 6, device=DEV.encode()),
    "raw-udp": lambda: raw(struct.pack("!HHHH", 40000, 80, 8 + len(mark), 0) + mark, 17),
    "header": lambda: raw(ip(tcp())),
    "fragments": lambda: fragments(tcp(payload=b"    ") + mark),
    "later-fragment": lambda: raw(ip(mark, fragment=3)),
    "ping": lambda: ping(socket.SOCK_DGRAM),
    "ping-raw": lambda: ping(socket.SOCK_RAW),
    "sctp": lambda: raw(struct.pack("!HHII", 40000, 80, 0, 0) + mark, 132),
    "gre": lambda: raw(mark, 47),
    "raw6": lambda: raw6(tcp(), 6),
    "options6": lambda: raw6(struct.pack("!BBHI", 6, 0, 0x0104, 0) + tcp(), 60),
    "packet": lambda: frame(IPV4, ip(tcp())) if V4 else frame(IPV6, ip6(tcp(), 6)),
    "packet-marked": lambda: frame(IPV4, ip(tcp()), so_mark=0x1234),
    "packet-bypass": lambda: frame(IPV4, ip(tcp()), bypass=True),
    "packet-tagged": lambda: frame(TAG + IPV4, ip(tcp())) if V4 else frame(TAG + IPV6, ip6(tcp(), 6)),
    "packet-tagged-bypass": lambda: frame(TAG + IPV4, ip(tcp()), bypass=True),
    "packet-two-tags": lambda: frame(QINQ + TAG + IPV4, ip(tcp())),
    "packet-two-tags-bypass": lambda: frame(QINQ + TAG + IPV4, ip(tcp()), bypass=True),
    "packet-fragment": lambda: frame(IPV4, ip(mark, fragment=3)),
}
words = iter(sys.argv[2:])
for way, target, text in zip(words, words, words):
    mark, V4 = text.encode(), ":" not in target
    try:
        WAYS[way]()
        print("sent")
    except OSError as error:
        print("errno", error.errno)
