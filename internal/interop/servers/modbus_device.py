"""A Modbus TCP device on pymodbus.

Reads a list of points as JSON from one line of standard input, then serves
them on 127.0.0.1 at the port given as argument until its input ends. A point
is {"slave", "table", "address", "type", "order", "value"}: pymodbus turns the
value into registers, so that millrace's decoder is not judged by itself.
"""

import asyncio
import json
import sys

from pymodbus.client import ModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

TYPES = {
    "int16": "INT16",
    "uint16": "UINT16",
    "int32": "INT32",
    "uint32": "UINT32",
    "int64": "INT64",
    "uint64": "UINT64",
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "string": "STRING",
}
SIZE = 512  # registers or bits of each table


def registers(point):
    kind = ModbusTcpClient.DATATYPE[TYPES[point["type"]]]
    order = point.get("order") or "ABCD"
    value = point["value"]
    if point["type"].startswith("float"):
        value = float(value)
    elif point["type"] != "string":
        value = int(value)
    word_order = "little" if order in ("CDAB", "DCBA") else "big"
    out = ModbusTcpClient.convert_to_registers(value, kind, word_order=word_order)
    if order in ("BADC", "DCBA"):
        out = [(r & 0xFF) << 8 | r >> 8 for r in out]
    return out


def device(slave, points):
    tables = {
        "coil": [False] * SIZE,
        "discrete": [False] * SIZE,
        "holding": [0] * SIZE,
        "input": [0] * SIZE,
    }
    for point in points:
        table, at = tables[point["table"]], point["address"]
        cells = [bool(point["value"])] if point["type"] == "bool" else registers(point)
        table[at : at + len(cells)] = cells

    def data(name, datatype):
        return [SimData(0, values=tables[name], datatype=datatype)]

    return SimDevice(
        slave,
        simdata=(
            data("coil", DataType.BITS),
            data("discrete", DataType.BITS),
            data("holding", DataType.REGISTERS),
            data("input", DataType.REGISTERS),
        ),
    )


async def main():
    points = json.loads(sys.stdin.readline())
    slaves = sorted({p["slave"] for p in points})
    devices = [device(s, [p for p in points if p["slave"] == s]) for s in slaves]
    server = ModbusTcpServer(devices, address=("127.0.0.1", int(sys.argv[1])))
    await server.serve_forever(background=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.shutdown()


asyncio.run(main())
