"""Sends one frame by tw-eth, from its own station: tagged.py SOURCE TARGET MARK STATION TAG…

Each TAG is the number of a VLAN, the outermost first (0: none, only a priority). In it a datagram from SOURCE to port 80 of
TARGET, which says MARK.
"""
import socket, struct, sys

source, target, mark, station, *tags = sys.argv[1:]


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(("tw-eth", 0))
said = mark.encode()
udp = struct.pack("!HHHH", 40000, 80, 8 + len(said), 0) + said
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 7, 0, 64, 17, 0,
                 socket.inet_aton(source), socket.inet_aton(target))
ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
vlans = b"".join(struct.pack("!HH", 0x8100, int(tag)) for tag in tags)
s.send(bytes.fromhex(station.replace(":", "")) + s.getsockname()[4] + vlans + b"\x08\0" + ip + udp)
