"""A pipeline of Luigi: the orders of four regions, cleaned, summed and ranked, into one report.

Prepare -> Fetch(region) -> Clean(region) -> Totals and Ranking -> Report: twelve tasks, whose files are in --folder.
A file `wait` in there holds up Prepare until it is gone; a file `broken` fails Clean of the region it names.
"""

import json
import time
from pathlib import Path

import luigi

REGIONS = ["north", "south", "east", "west"]


class Step(luigi.Task):
    folder = luigi.Parameter()

    def file(self):
        raise NotImplementedError

    def output(self):
        return luigi.LocalTarget(str(Path(self.folder) / self.file()))

    def say(self, text):
        print(f"{self.task_family.lower()}: {text}", flush=True)

    def write(self, value):
        with self.output().open("w") as file:
            json.dump(value, file, indent=1)
        self.say(f"wrote {self.file()}")


class Prepare(Step):
    def file(self):
        return "regions.json"

    def run(self):
        self.say("begins")
        end = time.monotonic() + 60
        while (Path(self.folder) / "wait").exists() and time.monotonic() < end:
            time.sleep(0.01)
        self.write(REGIONS)


class Fetch(Step):
    region = luigi.ChoiceParameter(choices=REGIONS)

    def requires(self):
        return Prepare(folder=self.folder)

    def file(self):
        return f"raw-{self.region}.json"

    def run(self):
        with self.input().open() as file:
            rank = json.load(file).index(self.region)
        # A cancelled order among them has no amount.
        self.write([{"id": n, "amount": n * (rank + 1) if n % 7 else None} for n in range(100)])


class Clean(Step):
    region = luigi.ChoiceParameter(choices=REGIONS)

    def requires(self):
        return Fetch(folder=self.folder, region=self.region)

    def file(self):
        return f"clean-{self.region}.json"

    def run(self):
        broken = Path(self.folder) / "broken"
        if broken.exists() and broken.read_text().strip() == self.region:
            raise RuntimeError(f"the orders of {self.region} are broken")
        with self.input().open() as file:
            orders = [order for order in json.load(file) if order["amount"] is not None]
        self.write(orders)


class OfAll(Step):
    def requires(self):
        return {region: Clean(folder=self.folder, region=region) for region in REGIONS}

    def sums(self):
        sums = {}
        for region, target in self.input().items():
            with target.open() as file:
                sums[region] = sum(order["amount"] for order in json.load(file))
        return sums


class Totals(OfAll):
    def file(self):
        return "totals.json"

    def run(self):
        self.write(self.sums())


class Ranking(OfAll):
    def file(self):
        return "ranking.json"

    def run(self):
        sums = self.sums()
        self.write(sorted(sums, key=sums.get, reverse=True))


class Report(Step):
    def requires(self):
        return {"totals": Totals(folder=self.folder), "ranking": Ranking(folder=self.folder)}

    def file(self):
        return "report.txt"

    def run(self):
        with self.input()["totals"].open() as file:
            totals = json.load(file)
        with self.input()["ranking"].open() as file:
            ranking = json.load(file)
        with self.output().open("w") as file:
            file.writelines(f"{region} {totals[region]}\n" for region in ranking)
        self.say("wrote report.txt")
