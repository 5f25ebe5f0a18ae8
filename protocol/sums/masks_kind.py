"""Sums under masks: the coordinator reads the sum over survivors, and no update."""

from __future__ import annotations

from collections.abc import Sequence

from privacy.accounting.plan import Plan
from privacy.secagg.ring import Ring
from privacy.secagg.sealing import KEY_BYTES
from privacy.secagg.shamir import SHARE_BYTES
from protocol.job.job import Job
from protocol.job.manifest import Manifest
from protocol.messages import confide_pb2 as pb
from protocol.messages.sized import SIGNATURE_BYTES
from protocol.sums.mask_messages import SEALED_BYTES, check_rules, check_threshold
from protocol.sums.sum_kind import DIGEST_BYTES, RoundMessages
from protocol.sums.update_encoding import make_encoding, vector_size


class Masks:
    """Each update is masked; sites uncover the sum of those that arrived."""

    def check(self, manifest: Manifest) -> None:
        lower = f", or set a lower threshold, {manifest.cohort // 2 + 1} at least"
        check_threshold(manifest, how="under masks", otherwise=lower)
        check_rules(manifest)

    def check_size(self, manifest: Manifest, *, update_size: int, plan: Plan | None) -> None:
        make_encoding(manifest, update_size=update_size, number=1, plan=plan)

    def refusal(self, manifest: Manifest, *, colluding: int) -> str | None:
        asked, sites = manifest.job.masks.colluding, manifest.cohort
        if asked < colluding:
            # Noise in shares, and whom a site masks with among many, are planned for those in the job.
            return f"expected aggregation.colluding={colluding} at least, got {asked}"
        if sites < colluding + 2:
            return (
                f"a sum of {sites} sites hides no update from the coordinator and {colluding} of them: "
                f"expected {colluding + 2} sites at least"
            )
        # Either of a site's two masks takes t sites to uncover, and only those who collude answer for both:
        # among 2t - c sites there are enough for each (Bonawitz et al. 2017, section 6).
        least = (sites + colluding) // 2 + 1
        if manifest.threshold < least:
            return (
                f"a coordinator that colludes with {colluding} of {sites} sites could read an update: "
                f"expected aggregation.threshold={least} at least, got {manifest.threshold}"
            )
        return None

    def who_reads(self, manifest: Manifest) -> str:
        min_survivors = manifest.min_survivors
        helped = min(max(1, 2 * manifest.threshold - manifest.cohort), min_survivors - 1)
        could = f"with {helped} of the sites" if manifest.job.masks.confirm else "breaking the protocol"
        reads = f"the coordinator reads sums of {min_survivors} sites or more"
        return f"{reads}; {could} it could read each update"

    def notice(self, manifest: Manifest) -> str:
        """How many sites could work with the coordinator before it reads a single update.

        With fewer than t of them it cannot uncover masks by itself, and with fewer than 2t − n it cannot by
        telling the others different things (Bonawitz et al. 2017, sections 6.2 and 6.3). Whatever masks do,
        the colluding sites' own updates can be taken off a sum, which must leave two others.
        """
        n, t = manifest.cohort, manifest.threshold
        min_survivors = max(t, manifest.min_survivors)
        if min_survivors < 2:
            return (
                "Updates are masked, which hides nothing here: the sum over one site is that site’s update."
            )
        over = f"all {n} sites" if min_survivors == n else f"at least {min_survivors} of {n} sites"
        text = f"Updates are masked: the coordinator reads only sums, each over {over}. "
        text += "It learns no single update "
        honest, other = min(t - 1, min_survivors - 2), min(2 * t - n - 1, t - 2)
        if manifest.job.masks.confirm and other == honest:
            return text + f"{_while_working(honest)}, whether it follows the protocol or not."
        text += f"{_while_working(honest)} and it follows the protocol. "
        if not manifest.job.masks.confirm:
            return text + (
                "One that does not could, because the sites do not confirm to each other whose updates are "
                "in a sum: aggregation.confirm = false."
            )
        if other < 0:
            return text + (
                f"One that does not could, because {t} of {n} sites, no more than half, are enough to "
                f"uncover a sum: aggregation.threshold = {t}."
            )
        return text + f"If it does not, that holds {_while_working(other)}."

    def longest_update(self, job: Job, *, update_size: int) -> int:
        """The modulus' bits a number, and so of every update."""
        return Ring(job.masks.modulus_bits).packed_size(vector_size(job, update_size))

    def messages(self, job: Job, sites: Sequence[str], *, site: str, update_size: int) -> RoundMessages:
        """Every site is taken to mask with every other."""
        trained = pb.Trained(update=bytes(self.longest_update(job, update_size=update_size)))
        trained.next.CopyFrom(
            pb.Dealing(
                key=bytes(KEY_BYTES),
                commitment=bytes(KEY_BYTES),
                sealed=[bytes(SEALED_BYTES)] * (len(sites) - 1),
            )
        )
        unmask = pb.Unmask(manifest_digest=bytes(DIGEST_BYTES), number=1, survivors=sites)
        shares = [pb.Share(place=place, share=bytes(SHARE_BYTES)) for place in range(len(sites))]
        requests, replies = [], [pb.Reply(site=site, unmasked=pb.Unmasked(shares=shares))]
        if job.masks.confirm:
            confirm = pb.Confirm(manifest_digest=bytes(DIGEST_BYTES), number=1, survivors=sites)
            requests.append(pb.Request(confirm=confirm))
            unmask.signatures.extend(pb.Signed(site=one, signature=bytes(SIGNATURE_BYTES)) for one in sites)
            confirmed = pb.Confirmed(signature=bytes(SIGNATURE_BYTES))
            replies.append(pb.Reply(site=site, confirmed=confirmed))
        requests.append(pb.Request(unmask=unmask))
        return RoundMessages(train=_train(sites), trained=trained, requests=requests, replies=replies)


def _train(sites: Sequence[str]) -> pb.Train:
    train = pb.Train()
    for site in sites:
        train.cohort.dealt.add(
            site=site, key=bytes(KEY_BYTES), commitment=bytes(KEY_BYTES), sealed=bytes(SEALED_BYTES)
        )
        train.next.members.add(
            site=site, identity=bytes(KEY_BYTES), key=bytes(KEY_BYTES), signature=bytes(SIGNATURE_BYTES)
        )
    return train


def _while_working(most: int) -> str:
    if most == 0:
        return "while no site works with it"
    return f"while at most {most} {'site works' if most == 1 else 'sites work'} with it"
