"""A server at which a team has been working for a while: starter problems, wrong programs as people write them, and
annotators of varied skill. For tests of what a lead sees, and for the pictures in the docs."""

import random

from crlhf_ray.aggregation.settings import AggregationSettings
from crlhf_ray.feedback.desk.queue import QueueSettings
from crlhf_ray.feedback.desk.settings import WebSettings
from crlhf_ray.feedback.honeypots import make_item, opaque_id
from crlhf_ray.feedback.mutations import mutations
from crlhf_ray.problems.load import load_problems
from tests.desk.conftest import Server

#: name: (marks a correct line correct, marks a wrong line wrong)
SKILLS = {
    "Amara": (0.97, 0.93), "Bela": (0.93, 0.85), "Chen": (0.9, 0.7), "Dora": (0.82, 0.6), "Emil": (0.5, 0.5),
    "Femi": (0.1, 0.1),
}  # fmt: skip
ROUNDS, PROGRAMS, HONEYPOTS = 5, 6, 24
PROBLEMS = sorted(
    (problem for problem in load_problems("starter") if problem.split == "train"),
    key=lambda problem: -max(reference.count("\n") for reference in problem.references),
)[:24]


class Team(Server):
    """wrong: the numbers of the wrong lines, by item_id."""

    def __init__(self, directory):
        queue = QueueSettings(qualification=2, labels_least=3, labels_most=5, honeypots_least=0.3)
        aggregation = AggregationSettings(prior=0.75)
        super().__init__(WebSettings(dir=directory, queue=queue, logins_a_minute=1000), aggregation)
        self.draw, self.wrong, self.made = random.Random(5), {}, 0
        known = [self.program(0.8) for _ in range(HONEYPOTS)]
        gold = {
            item.item_id: [-1 if n in self.wrong[item.item_id] else 1 for n, _ in enumerate(item.lines)]
            for item in known
        }
        self.lead.publish(known, gold=gold)
        people = {name: self.person(name) for name in SKILLS}
        for number in range(ROUNDS):
            share = 0.9 - 0.16 * number  # the policy learns
            self.lead.publish([self.program(share) for _ in range(PROGRAMS)], round=number)
            busy = list(people)
            while busy:
                name = self.draw.choices(busy, [0.4 if name in ("Emil", "Femi") else 1 for name in busy])[0]
                if not self.review(people[name], name):
                    busy.remove(name)
                self.now += self.draw.uniform(4, 14)
                self.settled()  # so that what is known, and when, depends on nothing but the draws
        self.lead.publish([self.program(0.4) for _ in range(PROGRAMS)], round=ROUNDS)
        self.settled()

    def program(self, share_wrong):
        problem = PROBLEMS[self.made % len(PROBLEMS)]
        completion = max(problem.references, key=lambda text: text.count("\n"))
        self.made += 1
        wrong = set()
        while self.draw.random() < share_wrong and len(wrong) < 3:
            mutation = self.draw.choice(mutations(problem.prompt, completion))
            completion = mutation.completion
            wrong.add(mutation.line)
        item = make_item(problem, completion, opaque_id(1, self.made))
        self.wrong[item.item_id] = wrong
        return item

    def review(self, person, name):
        task = person.next()
        if task is None:
            return False
        right, finds = SKILLS[name]
        marks = {}
        for line in task.to_review:
            wrong = line in self.wrong[task.item_id]
            said = self.draw.random() < (finds if wrong else right)
            marks[line] = 0 if self.draw.random() < 0.06 else (1 if said != wrong else -1)
        person.mark(task.lease_id, marks, self.draw.randint(2000, 6000))
        found = [line for line in marks if marks[line] < 0 and line in self.wrong[task.item_id]]
        if found and name == "Amara":
            person._call(
                "POST",
                f"/leases/{task.lease_id}/comments",
                {"line": found[0], "text": "Off by one, or the wrong comparison?"},
            )
        person.submit(task.lease_id, self.draw.choice((2, 3, 3)))
        return True
