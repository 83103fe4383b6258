/** Actions on one job: show all facts about it, or cancel it. */

import { api } from "./api.js";
import { byId, element, setText } from "./elements.js";
import { harmless, harmlessLines } from "./format.js";

/**
 * Return functions that fill the cells of a job. `say` shows a message to the reader, `refresh`
 * asks the daemon for its state at once.
 */
export function jobActions(say, refresh) {
  // Jobs that the reader cancelled, until the daemon reports it.
  const cancelling = new Set();

  async function cancel(job) {
    if (!(await confirmed(job))) return;
    cancelling.add(job.job);
    refresh();
    try {
      await api(`api/v1/jobs/${encodeURIComponent(job.job)}/cancel`, {
        method: "POST",
        headers: { "X-Wasmdrop": "1" },
      });
    } catch (error) {
      cancelling.delete(job.job);
      say(`Job ${job.job} was not cancelled: ${error.message}`);
    }
    refresh();
  }

  return {
    /** Forget cancellations of jobs that have ended. */
    update(overview) {
      const open = new Set([...overview.running, ...overview.queued].map((job) => job.job));
      for (const job of cancelling) if (!open.has(job)) cancelling.delete(job);
    },

    fillCancel(cell, job) {
      const isCancelling = job.is_cancelled || cancelling.has(job.job);
      const button = cell.firstElementChild ?? cell.appendChild(actionButton());
      button.onclick = () => {
        if (button.getAttribute("aria-disabled") !== "true") cancel(job);
      };
      // The results of an executed job are on their way.
      button.hidden = !isCancelling && job.state === "executed";
      // Not `disabled`: the button that the reader has just used keeps the focus.
      button.setAttribute("aria-disabled", String(isCancelling));
      setText(button, isCancelling ? "cancelling" : "Cancel");
      const label = `${isCancelling ? "Cancelling" : "Cancel"} the job of ${harmless(job.slot)}`;
      if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    },

    fillDetails(cell, job) {
      const button = cell.firstElementChild ?? cell.appendChild(linkButton());
      button.onclick = () => showDetails(job.job);
      setText(button, harmless(job.job));
    },
  };
}

function actionButton() {
  return element("button", { type: "button" });
}

function linkButton() {
  return element("button", { type: "button", class: "link" });
}

/** Ask once; return whether the reader wants to cancel. */
function confirmed(job) {
  const dialog = byId("cancel");
  setText(byId("cancel-slot"), harmless(job.slot));
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "cancel"), { once: true });
  });
}

async function showDetails(id) {
  const list = byId("details-facts");
  const show = (pairs) =>
    list.replaceChildren(
      ...pairs.flatMap(([name, value]) => [
        element("dt", {}, name),
        element("dd", {}, element("bdi", { class: "whole" }, value)),
      ]),
    );
  show([["job", harmless(id)]]);
  byId("details").showModal();
  try {
    show(facts(await api(`api/v1/jobs/${encodeURIComponent(id)}`)));
  } catch (error) {
    show([
      ["job", harmless(id)],
      ["error", error.message],
    ]);
  }
}

/** Return name and text of each known fact; facts within facts get the names of both. */
function facts(job, prefix = "") {
  return Object.entries(job).flatMap(([key, value]) => {
    const name = harmless(prefix + key.replaceAll("_", " "));
    if (value === null || value === "") return [];
    if (typeof value === "object") return facts(value, `${name} `);
    return [[name, harmlessLines(value)]];
  });
}
