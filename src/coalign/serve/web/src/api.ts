// Requests to the server. An answer that is an error becomes an Error with its sentence.

import { decode, type Maps, type Said } from "./heat";

export interface Run {
  name: string;
  system: string | null;
  head: string | null;
  reads: "pairs" | "streams";
  loaded: boolean;
  waiting: number;
}

export interface Answer {
  row: number;
  score?: number;
  p_match?: number | null;
  modality: string;
  text: string;
  image: string;
  columns: Record<string, string | null>;
  video?: string;
  start?: number;
  end?: number;
  file?: string;
}

export interface Found {
  run: string;
  answers: Answer[];
  total: number;
  next: number | null;
  calibrating?: boolean;
}

export interface Rows {
  run: string;
  data: string;
  searchable: boolean;
  counts: Record<string, number>;
  columns: Record<string, string[]>;
  total: number;
  rows: Answer[];
}

export interface Aligned extends Said {
  run: string;
  row: number | null;
  text: string;
  image: string | null;
  bytes: string;
  p_match?: number | null;
}

export async function json<T>(address: string, options: RequestInit = {}): Promise<T> {
  const answer = await fetch(address, options);
  const said = (await answer.json().catch(() => ({}))) as { error?: string };
  if (!answer.ok) throw new Error(said.error ?? `the server answered ${answer.status}`);
  return said as T;
}

export function query(values: Record<string, string | number | boolean | string[] | null | undefined>): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (Array.isArray(value)) value.forEach((one) => found.append(name, one));
    else if (value !== null && value !== undefined && value !== "" && value !== false) {
      found.set(name, value === true ? "1" : String(value));
    }
  }
  return found.toString();
}

export async function bytes(address: string): Promise<ArrayBuffer> {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.arrayBuffer();
}

export async function aligned(body: Record<string, unknown>): Promise<{ said: Aligned; maps: Maps }> {
  const said = await json<Aligned>("/api/align", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return { said, maps: decode(said, await bytes(said.bytes)) };
}

export function base64(file: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(new Error("the picture cannot be read"));
    reader.readAsDataURL(file);
  });
}

export function download(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
