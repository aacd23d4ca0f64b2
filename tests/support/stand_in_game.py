"""Stands in for StarCraft II's program: speaks its protocol over a websocket, so that the real `pysc2` and `smac` run.

    stand_in_game.py -listen 127.0.0.1 -port PORT -dataDir FOLDER -tempDir FOLDER

A battle of three marines on either side, in reach of each other; eight game loops are one shot of 9 for whoever attacks
(enemies always do). Killing everybody by debug command brings all back at the next step, as SMAC's maps do. The script
is JSON in the environment variable STAND_IN: {"die_at_loop": n} ends the process there, {"hang_at_loop": n} sleeps,
{"end_at_loop": n} ends the game as StarCraft II does after 2^19 loops, {"lives": n} does so in the first n games of a
folder only, {"health": h} is what enemies have.
"""

import base64
import hashlib
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

from s2clientprotocol import sc2api_pb2 as sc_pb

MARINE, SIDE, ATTACK, SHOT, LOOPS_PER_SHOT = 48, 32, 23, 9, 8


class Battle:
    def __init__(self, health):
        self.health, self.loop, self.next_tag, self.seed = health, 0, 1, 0
        self.targets = {}
        self.spawn()

    def spawn(self):
        self.units = {}
        for owner, x, health in ((1, 12.0, 45), (2, 16.0, self.health)):
            for row in range(3):
                unit = {"owner": owner, "x": x, "y": 14.0 + row, "health": health, "health_max": health}
                self.units[self.next_tag] = unit
                self.next_tag += 1

    def step(self, loops):
        if not self.units:
            self.spawn()
        self.loop += loops
        if loops < LOOPS_PER_SHOT:
            return
        for tag, target in [*self.targets.items(), *self.enemy_orders()]:
            if tag in self.units and target in self.units:
                self.units[target]["health"] -= SHOT
        self.units = {tag: unit for tag, unit in self.units.items() if unit["health"] > 0}
        self.targets = {}

    def enemy_orders(self):
        allies = [tag for tag, unit in self.units.items() if unit["owner"] == 1]
        enemies = [tag for tag, unit in self.units.items() if unit["owner"] == 2]
        return [(enemy, allies[0]) for enemy in enemies if allies]


class Game:
    def __init__(self, script):
        self.script = script
        self.battle, self.status = Battle(script.get("health", 45)), sc_pb.launched

    def answer(self, request):
        response = sc_pb.Response(id=request.id)
        kind = request.WhichOneof("request")
        if kind == "quit":
            sys.exit(0)
        getattr(self, kind, lambda *_: None)(getattr(request, kind), getattr(response, kind))
        getattr(response, kind).SetInParent()
        response.status = self.status
        return response

    def create_game(self, request, _):
        assert request.local_map.map_data
        assert request.player_setup[1].difficulty == sc_pb.VeryHard
        self.battle.seed, self.status = request.random_seed, sc_pb.init_game

    def join_game(self, _, response):
        response.player_id, self.status = 1, sc_pb.in_game

    def game_info(self, _, response):
        raw = response.start_raw
        raw.map_size.x = raw.map_size.y = raw.playable_area.p1.x = raw.playable_area.p1.y = SIDE
        raw.playable_area.p0.x = raw.playable_area.p0.y = 0
        for grid in (raw.pathing_grid, raw.terrain_height):
            grid.bits_per_pixel, grid.data = 8, bytes(SIDE * SIDE)

    def action(self, request, _):
        for action in request.actions:
            command = action.action_raw.unit_command
            if command.ability_id == ATTACK:
                self.battle.targets |= dict.fromkeys(command.unit_tags, command.target_unit_tag)

    def step(self, request, _):
        self.battle.step(request.count)
        self.misbehave()

    def debug(self, request, _):
        for command in request.debug:
            for tag in command.kill_unit.tag:
                self.battle.units.pop(tag, None)

    def observation(self, _, response):
        response.observation.game_loop = self.battle.loop
        for tag, unit in self.battle.units.items():
            entry = response.observation.raw_data.units.add(tag=tag, unit_type=MARINE, owner=unit["owner"])
            entry.pos.x, entry.pos.y, entry.pos.z = unit["x"], unit["y"], 0.0
            entry.health, entry.health_max = unit["health"], unit["health_max"]

    def save_replay(self, _, response):
        response.data = f"seed {self.battle.seed}, {self.battle.loop} loops".encode()

    def misbehave(self):
        if self.battle.loop >= self.script.get("die_at_loop", float("inf")):
            os._exit(9)
        if self.battle.loop >= self.script.get("hang_at_loop", float("inf")):
            time.sleep(3600)
        if self.battle.loop >= self.script.get("end_at_loop", float("inf")):
            self.status = sc_pb.ended


def serve(connection, game):
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        request += connection.recv(4096)
    key = next(line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    connection.sendall(head + b"Sec-WebSocket-Accept: " + proof + b"\r\n\r\n")
    stream = connection.makefile("rb")
    while True:
        code, payload = read_frame(stream)
        if code == 8:
            return
        if code in (1, 2):
            answer = game.answer(sc_pb.Request.FromString(payload)).SerializeToString()
            size = len(answer)
            length = bytes([size]) if size < 126 else struct.pack(">BH", 126, size) if size < 65536 else None
            connection.sendall(b"\x82" + (length or struct.pack(">BQ", 127, size)) + answer)


def read_frame(stream):
    head = stream.read(2)
    if len(head) < 2:
        return 8, b""
    size = head[1] & 127
    if size > 125:
        size = struct.unpack(">H", stream.read(2))[0] if size == 126 else struct.unpack(">Q", stream.read(8))[0]
    mask = stream.read(4)
    data = stream.read(size)
    return head[0] & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def main(arguments):
    options = dict(zip(arguments[::2], arguments[1::2]))
    script = json.loads(os.environ.get("STAND_IN", "{}"))
    lives = Path(options["-dataDir"], "launches")
    with lives.open("a") as file:
        file.write("x")
    if lives.stat().st_size > script.get("lives", 10**9):
        script = {key: value for key, value in script.items() if not key.endswith("_at_loop")}
    with socket.create_server((options["-listen"], int(options["-port"]))) as server:
        connection, _ = server.accept()
        serve(connection, Game(script))


if __name__ == "__main__":
    main(sys.argv[1:])
